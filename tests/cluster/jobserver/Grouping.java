import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.model.pipeline.v1.RunnerApi.Components;
import org.apache.beam.runners.fnexecution.wire.WireCoders;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.util.construction.graph.PipelineNode;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.sdk.values.WindowedValues;
import org.apache.beam.sdk.values.WindowedValues.WindowedValueCoder;

/** What GroupByKey needs to know of elements, all of which are in the global window. */
final class Grouping implements Serializable {
  private final byte[] components;
  private final String input;
  private final String output;
  private transient Coder<WindowedValue<KV<Object, Object>>> inputCoder;
  private transient Coder<WindowedValue<KV<Object, Iterable<Object>>>> outputCoder;

  Grouping(Components components, String input, String output) {
    this.components = components.toByteArray();
    this.input = input;
    this.output = output;
  }

  private <T> Coder<WindowedValue<T>> coder(String name) throws Exception {
    Components all = Components.parseFrom(components);
    return WireCoders.instantiateRunnerWireCoder(PipelineNode.pCollection(name, all.getPcollectionsOrThrow(name)), all);
  }

  private Coder<WindowedValue<KV<Object, Object>>> inputCoder() throws Exception {
    return inputCoder == null ? inputCoder = coder(input) : inputCoder;
  }

  /** The encoded key of an element. */
  @SuppressWarnings("unchecked")
  byte[] key(byte[] element) throws Exception {
    KvCoder<Object, Object> pairs =
        (KvCoder<Object, Object>) ((WindowedValueCoder<KV<Object, Object>>) inputCoder()).getValueCoder();
    return CoderUtils.encodeToByteArray(
        pairs.getKeyCoder(), CoderUtils.decodeFromByteArray(inputCoder(), element).getValue().getKey());
  }

  /** The element of a key and all its values. */
  byte[] join(Iterable<byte[]> elements) throws Exception {
    outputCoder = outputCoder == null ? coder(output) : outputCoder;
    Object key = null;
    List<Object> values = new ArrayList<>();
    for (byte[] element : elements) {
      KV<Object, Object> pair = CoderUtils.decodeFromByteArray(inputCoder(), element).getValue();
      key = pair.getKey();
      values.add(pair.getValue());
    }
    return CoderUtils.encodeToByteArray(outputCoder, WindowedValues.valueInGlobalWindow(KV.of(key, values)));
  }
}
