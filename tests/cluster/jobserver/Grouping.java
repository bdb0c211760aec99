import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.model.pipeline.v1.RunnerApi.Components;
import org.apache.beam.runners.fnexecution.wire.WireCoders;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.PaneInfo;
import org.apache.beam.sdk.util.CoderUtils;
import org.apache.beam.sdk.util.construction.graph.PipelineNode;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.WindowedValue;
import org.apache.beam.sdk.values.WindowedValues;
import org.apache.beam.sdk.values.WindowedValues.FullWindowedValueCoder;
import org.apache.beam.vendor.guava.v32_1_2_jre.com.google.common.collect.Iterables;
import org.apache.beam.vendor.guava.v32_1_2_jre.com.google.common.primitives.Bytes;

/** What GroupByKey needs to know of elements, each of which is in one window that merges with no other. */
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

  private WindowedValue<KV<Object, Object>> decode(byte[] element) throws Exception {
    return CoderUtils.decodeFromByteArray(inputCoder(), element);
  }

  private static BoundedWindow window(WindowedValue<?> value) {
    return Iterables.getOnlyElement(value.getWindows());
  }

  /** The encoded window and key of an element. */
  @SuppressWarnings("unchecked")
  byte[] key(byte[] element) throws Exception {
    FullWindowedValueCoder<KV<Object, Object>> coder = (FullWindowedValueCoder<KV<Object, Object>>) inputCoder();
    WindowedValue<KV<Object, Object>> value = decode(element);
    byte[] window = CoderUtils.encodeToByteArray((Coder<BoundedWindow>) coder.getWindowCoder(), window(value));
    Coder<Object> keys = ((KvCoder<Object, Object>) coder.getValueCoder()).getKeyCoder();
    return Bytes.concat(window, CoderUtils.encodeToByteArray(keys, value.getValue().getKey()));
  }

  /** The last millisecond of an element's window. */
  long lastMs(byte[] element) throws Exception {
    return window(decode(element)).maxTimestamp().getMillis();
  }

  /** The element of a key and all its values in a window. */
  byte[] join(Iterable<byte[]> elements) throws Exception {
    outputCoder = outputCoder == null ? coder(output) : outputCoder;
    WindowedValue<KV<Object, Object>> last = null;
    List<Object> values = new ArrayList<>();
    for (byte[] element : elements) {
      last = decode(element);
      values.add(last.getValue().getValue());
    }
    KV<Object, Iterable<Object>> group = KV.of(last.getValue().getKey(), values);
    BoundedWindow window = window(last);
    return CoderUtils.encodeToByteArray(
        outputCoder, WindowedValues.of(group, window.maxTimestamp(), window, PaneInfo.ON_TIME_AND_ONLY_FIRING));
  }
}
