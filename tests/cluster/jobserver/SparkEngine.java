import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.spark.SparkConf;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.broadcast.Broadcast;
import org.apache.spark.storage.StorageLevel;
import scala.Tuple2;

/** Spark's RDDs. The master is its URL; everything else comes from `spark.` properties of the process. */
public final class SparkEngine implements Engine<JavaRDD<byte[]>> {
  private static JavaSparkContext context;

  private final int parallelism;

  public SparkEngine(String master, int parallelism) {
    this.parallelism = parallelism;
    synchronized (SparkEngine.class) {
      if (context == null || context.sc().isStopped()) {
        context = new JavaSparkContext(new SparkConf().setMaster(master).setAppName("tsae"));
      }
    }
  }

  @Override
  public JavaRDD<byte[]> impulse(byte[] element) {
    return context.parallelize(List.of(element), 1);
  }

  @Override
  public JavaRDD<byte[]> union(List<JavaRDD<byte[]>> parts) {
    return parts.stream().reduce(JavaRDD::union).orElseThrow();
  }

  @Override
  public JavaRDD<byte[]> spread(JavaRDD<byte[]> elements) {
    return elements.repartition(parallelism);
  }

  @Override
  public JavaRDD<byte[]> group(JavaRDD<byte[]> elements, Grouping grouping) {
    return elements
        .mapToPair(data -> new Tuple2<>(new Key(grouping.key(data)), data))
        .groupByKey(parallelism)
        .map(pair -> grouping.join(pair._2));
  }

  /** Bytes that are equal by their content. */
  private record Key(byte[] bytes) implements java.io.Serializable {
    @Override
    public boolean equals(Object other) {
      return other instanceof Key key && Arrays.equals(bytes, key.bytes);
    }

    @Override
    public int hashCode() {
      return ByteBuffer.wrap(bytes).hashCode();
    }
  }

  @Override
  public JavaRDD<byte[]> process(JavaRDD<byte[]> elements, Map<String, JavaRDD<byte[]>> sides, Stage stage) {
    Map<String, Broadcast<List<byte[]>>> values = new HashMap<>();
    sides.forEach((name, side) -> values.put(name, context.broadcast(side.collect())));
    return elements
        .mapPartitions(partition -> {
          ConcurrentLinkedQueue<byte[]> tagged = new ConcurrentLinkedQueue<>();
          stage.process(partition, name -> values.get(name).value(), tagged::add);
          return tagged.iterator();
        })
        .persist(StorageLevel.MEMORY_ONLY()); // else each use would compute it again
  }

  @Override
  public JavaRDD<byte[]> select(JavaRDD<byte[]> tagged, byte tag) {
    return tagged.filter(data -> data[0] == tag).map(data -> Arrays.copyOfRange(data, 1, data.length));
  }

  @Override
  public void run(String name, Collection<JavaRDD<byte[]>> wanted) {
    context.setJobGroup(name, name, true);
    try {
      wanted.forEach(JavaRDD::count);
    } finally {
      context.cancelJobGroup(name); // an interruption of this thread leaves tasks at work
    }
  }
}
