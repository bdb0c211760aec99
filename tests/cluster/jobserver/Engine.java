import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * What an engine must be able to do; its collections are of encoded elements.
 *
 * @param <C> a collection of the engine
 */
interface Engine<C> {
  static Engine<?> open(String name, String master, int parallelism) throws Exception {
    return (Engine<?>) Class.forName(name).getConstructor(String.class, int.class).newInstance(master, parallelism);
  }

  /** One element. */
  C impulse(byte[] element);

  /** All elements of several collections. */
  C union(List<C> parts);

  /** The same elements, spread over all workers. */
  C spread(C elements);

  /** One element for each key. */
  C group(C elements, Grouping grouping);

  /** What a stage makes of elements; the first byte of each tells which of its outputs it belongs to. */
  C process(C elements, Map<String, C> sides, Stage stage);

  /** The elements that begin with a byte, without it. */
  C select(C tagged, byte tag);

  /** Computes collections and waits until that is done. */
  void run(String name, Collection<C> wanted) throws Exception;
}
