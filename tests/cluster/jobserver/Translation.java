import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.beam.model.pipeline.v1.RunnerApi.Components;
import org.apache.beam.model.pipeline.v1.RunnerApi.ExecutableStagePayload;
import org.apache.beam.model.pipeline.v1.RunnerApi.PTransform;
import org.apache.beam.model.pipeline.v1.RunnerApi.Pipeline;
import org.apache.beam.runners.fnexecution.provisioning.JobInfo;
import org.apache.beam.runners.fnexecution.wire.WireCoders;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.util.construction.PTransformTranslation;
import org.apache.beam.sdk.util.construction.graph.ExecutableStage;
import org.apache.beam.sdk.util.construction.graph.GreedyPipelineFuser;
import org.apache.beam.sdk.util.construction.graph.PipelineNode;
import org.apache.beam.sdk.util.construction.graph.PipelineNode.PTransformNode;
import org.apache.beam.sdk.util.construction.graph.ProtoOverrides;
import org.apache.beam.sdk.util.construction.graph.QueryablePipeline;
import org.apache.beam.sdk.util.construction.graph.SplittableParDoExpander;
import org.apache.beam.sdk.util.construction.graph.TrivialNativeTransformExpander;
import org.apache.beam.sdk.values.WindowedValues;

/** A pipeline as operations of an engine. */
final class Translation<C> {
  private static final Set<String> KNOWN =
      Set.of(
          PTransformTranslation.IMPULSE_TRANSFORM_URN,
          PTransformTranslation.FLATTEN_TRANSFORM_URN,
          PTransformTranslation.RESHUFFLE_URN,
          PTransformTranslation.GROUP_BY_KEY_TRANSFORM_URN,
          ExecutableStage.URN);

  private final Engine<C> engine;
  private final JobInfo job;
  private final Components components;
  private final Map<String, C> collections = new HashMap<>();
  private final Set<String> unused = new HashSet<>();

  private Translation(Engine<C> engine, JobInfo job, Components components) {
    this.engine = engine;
    this.job = job;
    this.components = components;
  }

  static <C> void run(Engine<C> engine, Pipeline pipeline, JobInfo job) throws Exception {
    Pipeline split = ProtoOverrides.updateTransform(
        PTransformTranslation.PAR_DO_TRANSFORM_URN, pipeline, SplittableParDoExpander.createSizedReplacement());
    Pipeline fused = GreedyPipelineFuser.fuse(TrivialNativeTransformExpander.forKnownUrns(split, KNOWN)).toPipeline();
    Translation<C> translation = new Translation<>(engine, job, fused.getComponents());
    QueryablePipeline graph = QueryablePipeline.forTransforms(fused.getRootTransformIdsList(), fused.getComponents());
    for (PTransformNode node : graph.getTopologicallyOrderedTransforms()) {
      translation.add(node.getTransform());
    }
    List<C> wanted = new ArrayList<>();
    translation.unused.forEach(name -> wanted.add(translation.collections.get(name)));
    engine.run(job.jobName(), wanted);
  }

  private void add(PTransform transform) throws Exception {
    String urn = transform.getSpec().getUrn();
    List<C> inputs = new ArrayList<>();
    if (urn.equals(ExecutableStage.URN)) {
      process(transform);
      return;
    }
    for (String name : transform.getInputsMap().values()) {
      inputs.add(take(name));
    }
    String output = transform.getOutputsMap().values().iterator().next();
    if (urn.equals(PTransformTranslation.IMPULSE_TRANSFORM_URN)) {
      var coder = WireCoders.instantiateRunnerWireCoder(
          PipelineNode.pCollection(output, components.getPcollectionsOrThrow(output)), components);
      put(output, engine.impulse(CoderUtils.encodeToByteArray(coder, WindowedValues.valueInGlobalWindow(new byte[0]))));
    } else if (urn.equals(PTransformTranslation.FLATTEN_TRANSFORM_URN)) {
      put(output, engine.union(inputs));
    } else if (urn.equals(PTransformTranslation.RESHUFFLE_URN)) {
      put(output, engine.spread(inputs.get(0)));
    } else if (urn.equals(PTransformTranslation.GROUP_BY_KEY_TRANSFORM_URN)) {
      String input = transform.getInputsMap().values().iterator().next();
      put(output, engine.group(inputs.get(0), new Grouping(components, input, output)));
    } else {
      throw new IllegalArgumentException("cannot be run here: " + urn);
    }
  }

  private void process(PTransform transform) throws Exception {
    Stage stage = new Stage(ExecutableStagePayload.parseFrom(transform.getSpec().getPayload()), job);
    ExecutableStage parsed = stage.parse();
    Map<String, C> sides = new HashMap<>();
    parsed.getSideInputs().forEach(side -> sides.put(side.collection().getId(), take(side.collection().getId())));
    C tagged = engine.process(take(parsed.getInputPCollection().getId()), sides, stage);
    List<String> outputs = Stage.outputs(parsed);
    for (int tag = 0; tag < outputs.size(); tag++) {
      put(outputs.get(tag), engine.select(tagged, (byte) tag));
    }
    if (outputs.isEmpty()) { // it is run for what it does
      put("of " + transform.getUniqueName(), tagged);
    }
  }

  private C take(String name) {
    unused.remove(name);
    return collections.get(name);
  }

  private void put(String name, C collection) {
    collections.put(name, collection);
    unused.add(name);
  }
}
