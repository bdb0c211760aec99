import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.DelayedBundleApplication;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleResponse;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.Timestamp;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;

/**
 * A stage in Flink's DataStream: each element is a bundle. What a splittable function of the SDK puts off is kept, also in
 * checkpoints, holds the watermark back, and is processed when its time has come.
 */
final class StageOperator extends AbstractStreamOperator<byte[]> implements OneInputStreamOperator<byte[], byte[]> {
  private final Stage stage;
  private transient Stage.Workers workers;
  private transient ListState<Tuple3<byte[], Long, Long>> kept;
  /** Element, time when it is due, and watermark of what may still come of it. */
  private transient List<Tuple3<byte[], Long, Long>> rests;
  private transient long inputMs;
  private transient long outputMs;

  StageOperator(Stage stage) {
    this.stage = stage;
  }

  @Override
  public void initializeState(StateInitializationContext context) throws Exception {
    super.initializeState(context);
    inputMs = outputMs = Long.MIN_VALUE;
    rests = new ArrayList<>();
    kept = context.getOperatorStateStore()
        .getListState(new ListStateDescriptor<>("rests", Types.TUPLE(FlinkStreamEngine.BYTES, Types.LONG, Types.LONG)));
    kept.get().forEach(rests::add);
  }

  @Override
  public void snapshotState(StateSnapshotContext context) throws Exception {
    super.snapshotState(context);
    kept.update(rests);
  }

  @Override
  public void open() throws Exception {
    super.open();
    workers = stage.open();
    rests.forEach(this::schedule);
  }

  @Override
  public void close() throws Exception {
    if (workers != null) {
      workers.close();
    }
    super.close();
  }

  private void schedule(Tuple3<byte[], Long, Long> rest) {
    getProcessingTimeService().registerTimer(rest.f1, time -> takeUp(time));
  }

  private void takeUp(long timeMs) throws Exception {
    List<Tuple3<byte[], Long, Long>> due = new ArrayList<>();
    for (Iterator<Tuple3<byte[], Long, Long>> all = rests.iterator(); all.hasNext(); ) {
      Tuple3<byte[], Long, Long> rest = all.next();
      if (rest.f1 <= timeMs) {
        due.add(rest);
        all.remove();
      }
    }
    for (Tuple3<byte[], Long, Long> rest : due) {
      process(rest.f0);
    }
    tell();
  }

  @Override
  public void processElement(StreamRecord<byte[]> element) throws Exception {
    process(element.getValue());
    tell();
  }

  private void process(byte[] element) throws Exception {
    Queue<byte[]> tagged = new ConcurrentLinkedQueue<>();
    Queue<ProcessBundleResponse> responses = new ConcurrentLinkedQueue<>();
    workers.process(List.of(element).iterator(), name -> List.of(), tagged::add, responses::add);
    tagged.forEach(data -> output.collect(new StreamRecord<>(data)));
    for (ProcessBundleResponse response : responses) {
      response.getResidualRootsList().forEach(this::put);
    }
  }

  private void put(DelayedBundleApplication residual) {
    var delay = residual.getRequestedTimeDelay();
    long dueMs = getProcessingTimeService().getCurrentProcessingTime() + delay.getSeconds() * 1000 + delay.getNanos() / 1000000;
    long watermarkMs = residual.getApplication().getOutputWatermarksMap().values().stream()
        .mapToLong(StageOperator::milliseconds).min().orElse(Long.MIN_VALUE + 1);
    Tuple3<byte[], Long, Long> rest = Tuple3.of(residual.getApplication().getElement().toByteArray(), dueMs, watermarkMs);
    rests.add(rest);
    schedule(rest);
  }

  private static long milliseconds(Timestamp time) {
    return time.getSeconds() * 1000 + time.getNanos() / 1000000;
  }

  @Override
  public void processWatermark(Watermark mark) {
    inputMs = mark.getTimestamp();
    tell();
  }

  /** Tells the watermark, which in Flink is the last time that is over. */
  private void tell() {
    long nowMs = inputMs;
    for (Tuple3<byte[], Long, Long> rest : rests) {
      nowMs = Math.min(nowMs, rest.f2 - 1);
    }
    if (nowMs > outputMs) {
      outputMs = nowMs;
      output.emitWatermark(new Watermark(nowMs));
    }
  }
}
