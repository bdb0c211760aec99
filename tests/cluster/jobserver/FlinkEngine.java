import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.functions.GroupReduceFunction;
import org.apache.flink.api.common.functions.RichMapPartitionFunction;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.DataSet;
import org.apache.flink.api.java.ExecutionEnvironment;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.io.DiscardingOutputFormat;
import org.apache.flink.api.java.operators.MapPartitionOperator;
import org.apache.flink.api.java.typeutils.ResultTypeQueryable;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.util.Collector;

/** Flink's DataSet, which is what Beam's portable runner uses for batch on Flink 1. The master is "host:port" of its REST server. */
public final class FlinkEngine implements Engine<DataSet<byte[]>> {
  private static final TypeInformation<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;

  private final ExecutionEnvironment environment;

  public FlinkEngine(String master, int parallelism) {
    String[] place = master.split(":");
    environment = ExecutionEnvironment.createRemoteEnvironment(place[0], Integer.parseInt(place[1]));
    environment.setParallelism(parallelism);
  }

  @Override
  public DataSet<byte[]> impulse(byte[] element) {
    return environment.fromCollection(List.of(element), BYTES);
  }

  @Override
  public DataSet<byte[]> union(List<DataSet<byte[]>> parts) {
    return parts.stream().reduce(DataSet::union).orElseThrow();
  }

  @Override
  public DataSet<byte[]> spread(DataSet<byte[]> elements) {
    return elements.rebalance();
  }

  /** Key of an element; a class, as Flink must be told the type. */
  private record Key(Grouping grouping) implements KeySelector<byte[], byte[]>, ResultTypeQueryable<byte[]> {
    @Override
    public byte[] getKey(byte[] element) throws Exception {
      return grouping.key(element);
    }

    @Override
    public TypeInformation<byte[]> getProducedType() {
      return BYTES;
    }
  }

  @Override
  public DataSet<byte[]> group(DataSet<byte[]> elements, Grouping grouping) {
    GroupReduceFunction<byte[], byte[]> join = (values, out) -> out.collect(grouping.join(values));
    return elements.groupBy(new Key(grouping)).reduceGroup(join).returns(BYTES);
  }

  private static final class Processing extends RichMapPartitionFunction<byte[], byte[]> {
    private final Stage stage;

    Processing(Stage stage) {
      this.stage = stage;
    }

    @Override
    public void mapPartition(Iterable<byte[]> elements, Collector<byte[]> out) throws Exception {
      stage.process(elements.iterator(), name -> getRuntimeContext().getBroadcastVariable(name), out::collect);
    }
  }

  @Override
  public DataSet<byte[]> process(DataSet<byte[]> elements, Map<String, DataSet<byte[]>> sides, Stage stage) {
    MapPartitionOperator<byte[], byte[]> tagged = elements.mapPartition(new Processing(stage)).returns(BYTES);
    sides.forEach((name, side) -> tagged.withBroadcastSet(side, name));
    return tagged;
  }

  @Override
  public DataSet<byte[]> select(DataSet<byte[]> tagged, byte tag) {
    return tagged.filter(data -> data[0] == tag).map(data -> Arrays.copyOfRange(data, 1, data.length)).returns(BYTES);
  }

  @Override
  public void run(String name, Collection<DataSet<byte[]>> wanted) throws Exception {
    wanted.forEach(elements -> elements.output(new DiscardingOutputFormat<>()));
    await(environment.executeAsync(name));
  }

  /** Waits for a job's end; an interruption is its end. */
  static void await(JobClient job) throws Exception {
    try {
      job.getJobExecutionResult().get();
    } catch (InterruptedException cancelled) {
      job.cancel().get();
      throw cancelled;
    }
  }
}
