import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.restartstrategy.RestartStrategies;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.common.time.Time;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.DiscardingSink;
import org.apache.flink.streaming.api.functions.source.SourceFunction;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.util.Collector;

/** Flink's DataStream, for pipelines without end: with watermarks, windows of event time, and checkpoints to restart from. */
public final class FlinkStreamEngine implements Engine<DataStream<byte[]>> {
  static final TypeInformation<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;

  private static final long CHECKPOINT_MS = 1000;

  /** So many within five minutes end a job: what has no end must outlive accidents, but not a step that always fails. */
  private static final int FAILURES = 10;

  private final StreamExecutionEnvironment environment;

  public FlinkStreamEngine(String master, int parallelism) {
    String[] place = master.split(":");
    environment = StreamExecutionEnvironment.createRemoteEnvironment(place[0], Integer.parseInt(place[1]));
    environment.setParallelism(parallelism);
    environment.enableCheckpointing(CHECKPOINT_MS);
    environment.setRestartStrategy(RestartStrategies.failureRateRestart(FAILURES, Time.minutes(5), Time.seconds(1)));
  }

  /** One element, and no end: a task whose inputs have ended would end too, whatever it still has to do. */
  private static final class Once implements SourceFunction<byte[]>, CheckpointedFunction {
    private final byte[] element;
    private transient ListState<Boolean> kept;
    private boolean isSent;
    private volatile boolean isCancelled;

    Once(byte[] element) {
      this.element = element;
    }

    @Override
    public void initializeState(FunctionInitializationContext context) throws Exception {
      kept = context.getOperatorStateStore().getListState(new ListStateDescriptor<>("sent", Types.BOOLEAN));
      for (boolean sent : kept.get()) {
        isSent |= sent;
      }
    }

    @Override
    public void snapshotState(FunctionSnapshotContext context) throws Exception {
      kept.update(List.of(isSent));
    }

    @Override
    public void run(SourceContext<byte[]> context) throws Exception {
      synchronized (context.getCheckpointLock()) {
        if (!isSent) {
          context.collect(element);
          isSent = true;
        }
      }
      context.emitWatermark(Watermark.MAX_WATERMARK);
      while (!isCancelled) {
        Thread.sleep(100);
      }
    }

    @Override
    public void cancel() {
      isCancelled = true;
    }
  }

  @Override
  public DataStream<byte[]> impulse(byte[] element) {
    return environment.addSource(new Once(element), "Impulse", BYTES);
  }

  @Override
  public DataStream<byte[]> union(List<DataStream<byte[]>> parts) {
    return parts.stream().reduce((one, other) -> one.union(other)).orElseThrow();
  }

  @Override
  public DataStream<byte[]> spread(DataStream<byte[]> elements) {
    return elements.rebalance();
  }

  /** The elements of each key and window, once the watermark has passed the window's end. */
  private static final class Windows extends KeyedProcessFunction<String, byte[], byte[]> {
    private final Grouping grouping;
    private transient ListState<byte[]> kept;

    Windows(Grouping grouping) {
      this.grouping = grouping;
    }

    @Override
    public void open(Configuration ignored) {
      kept = getRuntimeContext().getListState(new ListStateDescriptor<>("elements", BYTES));
    }

    @Override
    public void processElement(byte[] element, Context context, Collector<byte[]> out) throws Exception {
      kept.add(element);
      context.timerService().registerEventTimeTimer(grouping.lastMs(element));
    }

    @Override
    public void onTimer(long timestamp, OnTimerContext context, Collector<byte[]> out) throws Exception {
      out.collect(grouping.join(kept.get()));
      kept.clear();
    }
  }

  @Override
  public DataStream<byte[]> group(DataStream<byte[]> elements, Grouping grouping) {
    // Flink takes no arrays for keys.
    KeySelector<byte[], String> key = element -> new String(grouping.key(element), StandardCharsets.ISO_8859_1);
    return elements.keyBy(key, Types.STRING).process(new Windows(grouping), BYTES);
  }

  @Override
  public DataStream<byte[]> process(DataStream<byte[]> elements, Map<String, DataStream<byte[]>> sides, Stage stage) {
    if (!sides.isEmpty()) {
      throw new IllegalArgumentException("cannot be run here: side inputs of a pipeline without end");
    }
    return elements.transform("Stage", BYTES, new StageOperator(stage));
  }

  @Override
  public DataStream<byte[]> select(DataStream<byte[]> tagged, byte tag) {
    return tagged.filter(data -> data[0] == tag).map(data -> Arrays.copyOfRange(data, 1, data.length)).returns(BYTES);
  }

  @Override
  public void run(String name, Collection<DataStream<byte[]>> wanted) throws Exception {
    wanted.forEach(elements -> elements.addSink(new DiscardingSink<>()));
    FlinkEngine.await(environment.executeAsync(name));
  }
}
