import org.apache.beam.model.pipeline.v1.RunnerApi.PTransform;
import org.apache.beam.sdk.util.construction.NativeTransforms;
import org.apache.beam.sdk.util.construction.PTransformTranslation;

/** Tells Beam that Reshuffle is not to be made of other transforms. */
public final class NativeReshuffle implements NativeTransforms.IsNativeTransform {
  @Override
  public boolean test(PTransform transform) {
    return PTransformTranslation.RESHUFFLE_URN.equals(PTransformTranslation.urnForTransformOrNull(transform));
  }
}
