import java.io.Serializable;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.Function;
import org.apache.beam.model.pipeline.v1.RunnerApi.ExecutableStagePayload;
import org.apache.beam.runners.fnexecution.control.BundleCheckpointHandler;
import org.apache.beam.runners.fnexecution.control.BundleFinalizationHandler;
import org.apache.beam.runners.fnexecution.control.BundleProgressHandler;
import org.apache.beam.runners.fnexecution.control.DefaultExecutableStageContext;
import org.apache.beam.runners.fnexecution.control.ExecutableStageContext;
import org.apache.beam.runners.fnexecution.control.OutputReceiverFactory;
import org.apache.beam.runners.fnexecution.control.ProcessBundleDescriptors;
import org.apache.beam.runners.fnexecution.control.ReferenceCountingExecutableStageContextFactory;
import org.apache.beam.runners.fnexecution.control.RemoteBundle;
import org.apache.beam.runners.fnexecution.control.StageBundleFactory;
import org.apache.beam.runners.fnexecution.provisioning.JobInfo;
import org.apache.beam.runners.fnexecution.state.StateRequestHandler;
import org.apache.beam.runners.fnexecution.state.StateRequestHandlers;
import org.apache.beam.runners.fnexecution.translation.BatchSideInputHandlerFactory;
import org.apache.beam.runners.fnexecution.translation.BatchSideInputHandlerFactory.SideInputGetter;
import org.apache.beam.runners.fnexecution.wire.WireCoders;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.fn.data.FnDataReceiver;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.util.construction.graph.ExecutableStage;
import org.apache.beam.sdk.util.construction.graph.PipelineNode.PCollectionNode;
import org.apache.beam.sdk.values.WindowedValue;

/** A fused stage: what workers of the SDK make of a partition of elements, as one bundle. */
final class Stage implements Serializable {
  /** Where the workers of this process are kept, as long as a task needs them: a job that restarts must not meet dead ones. */
  private static final ExecutableStageContext.Factory CONTEXTS =
      ReferenceCountingExecutableStageContextFactory.create(DefaultExecutableStageContext::create, caller -> true);

  private static final BundleFinalizationHandler NO_FINALIZATION = id -> {
    throw new IllegalStateException("cannot be run here: finalization of bundles");
  };

  private final byte[] payload;
  private final JobInfo job;

  Stage(ExecutableStagePayload payload, JobInfo job) {
    this.payload = payload.toByteArray();
    this.job = job;
  }

  ExecutableStage parse() throws Exception {
    return ExecutableStage.fromPayload(ExecutableStagePayload.parseFrom(payload));
  }

  /** Names of the outputs; the place of one is its tag. */
  static List<String> outputs(ExecutableStage stage) {
    List<String> names = new ArrayList<>();
    stage.getOutputPCollections().forEach(output -> names.add(output.getId()));
    Collections.sort(names);
    return names;
  }

  /** Has a bundle processed; outputs may come from another thread, while elements are still sent or until the end. */
  void process(Iterator<byte[]> elements, Function<String, List<byte[]>> sides, Consumer<byte[]> tagged) throws Exception {
    try (Workers workers = open()) {
      workers.process(elements, sides, tagged, rest -> {
        throw new IllegalStateException("cannot be run here: a splittable function that puts off work, in a batch");
      });
    }
  }

  Workers open() throws Exception {
    FileSystems.setDefaultPipelineOptions(PipelineOptionsFactory.create());
    return new Workers(parse(), CONTEXTS.get(job));
  }

  /** The workers of a stage, as long as it needs them. */
  static final class Workers implements AutoCloseable {
    private final ExecutableStage stage;
    private final ExecutableStageContext context;
    private final StageBundleFactory bundles;
    private final Map<String, Coder<WindowedValue<Object>>> coders = new HashMap<>();
    private final Coder<WindowedValue<Object>> coder;

    private Workers(ExecutableStage stage, ExecutableStageContext context) throws Exception {
      this.stage = stage;
      this.context = context;
      for (PCollectionNode output : stage.getOutputPCollections()) {
        coders.put(output.getId(), WireCoders.instantiateRunnerWireCoder(output, stage.getComponents()));
      }
      coder = WireCoders.instantiateRunnerWireCoder(stage.getInputPCollection(), stage.getComponents());
      bundles = context.getStageBundleFactory(stage);
    }

    /** Has a bundle processed, as `Stage.process` does; what a function puts off goes to `rests`. */
    void process(
        Iterator<byte[]> elements, Function<String, List<byte[]>> sides, Consumer<byte[]> tagged, BundleCheckpointHandler rests)
        throws Exception {
      try (RemoteBundle bundle = bundles.getBundle(
          receivers(outputs(stage), coders, tagged),
          state(stage, sides),
          BundleProgressHandler.ignored(),
          NO_FINALIZATION,
          rests)) {
        FnDataReceiver<WindowedValue<?>> receiver = bundle.getInputReceivers().values().iterator().next();
        while (elements.hasNext()) {
          receiver.accept(CoderUtils.decodeFromByteArray(coder, elements.next()));
        }
      }
    }

    @Override
    public void close() throws Exception {
      bundles.close();
      context.close();
    }
  }

  private static OutputReceiverFactory receivers(
      List<String> names, Map<String, Coder<WindowedValue<Object>>> coders, Consumer<byte[]> tagged) {
    return new OutputReceiverFactory() {
      @Override
      public <T> FnDataReceiver<T> create(String name) {
        return element -> {
          @SuppressWarnings("unchecked")
          byte[] data = CoderUtils.encodeToByteArray(coders.get(name), (WindowedValue<Object>) element);
          byte[] all = new byte[data.length + 1];
          all[0] = (byte) names.indexOf(name);
          System.arraycopy(data, 0, all, 1, data.length);
          synchronized (tagged) {
            tagged.accept(all);
          }
        };
      }
    };
  }

  private static StateRequestHandler state(ExecutableStage stage, Function<String, List<byte[]>> sides) throws Exception {
    if (stage.getSideInputs().isEmpty()) {
      return StateRequestHandler.unsupported();
    }
    Map<String, Coder<WindowedValue<Object>>> coders = new HashMap<>();
    for (var side : stage.getSideInputs()) {
      coders.put(side.collection().getId(), WireCoders.instantiateRunnerWireCoder(side.collection(), stage.getComponents()));
    }
    SideInputGetter getter = new SideInputGetter() {
      @Override
      @SuppressWarnings("unchecked")
      public <T> List<T> getSideInput(String name) {
        List<T> values = new ArrayList<>();
        for (byte[] data : sides.apply(name)) {
          try {
            values.add((T) CoderUtils.decodeFromByteArray(coders.get(name), data));
          } catch (Exception error) {
            throw new IllegalStateException(error);
          }
        }
        return values;
      }
    };
    return StateRequestHandlers.forSideInputHandlerFactory(
        ProcessBundleDescriptors.getSideInputs(stage), BatchSideInputHandlerFactory.forStage(stage, getter));
  }
}
