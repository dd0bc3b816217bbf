import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.DescribeTopicsResult;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;

/**
 * An ordinary Java client that does once what clients do, and prints what it was told, one JSON object a line (type Told of
 * package tests/clients, which starts it and knows the arguments).
 */
public class Operations {
  static final Map<String, String> args = new HashMap<>();
  static final Duration PATIENCE = Duration.ofSeconds(45);
  static TopicPartition tp;

  public static void main(String[] words) throws Exception {
    for (String word : words) args.put(word.substring(0, word.indexOf('=')), word.substring(word.indexOf('=') + 1));
    tp = new TopicPartition(args.get("topic"), 0);
    if (Boolean.parseBoolean(args.get("write"))) {
      for (String acks : List.of("0", "1", "all")) produce("produce acks=" + acks, acks, false);
      produce("produce idempotent", "all", true);
      return;
    }
    for (String op : args.get("groups").split(",")) {
      member(op, "first", number("half"));
      member(op, "second", number("total") - number("half"));
    }
    assign();
    identities();
  }

  static int number(String name) {
    return Integer.parseInt(args.get(name));
  }

  static void tell(String op, String step, String value, long offset, long epoch, long time, String id) {
    System.out.println("{\"op\":\"" + op + "\",\"step\":\"" + step + "\",\"value\":\"" + value + "\",\"offset\":" + offset + ",\"epoch\":"
        + epoch + ",\"time\":" + time + ",\"id\":\"" + id + "\"}");
  }

  static Properties conf() {
    Properties p = new Properties();
    p.put("bootstrap.servers", args.get("bootstrap"));
    p.put("client.id", args.get("client"));
    return p;
  }

  static void produce(String op, String acks, boolean idempotent) throws Exception {
    Properties p = conf();
    p.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    p.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    p.put("acks", acks);
    p.put("enable.idempotence", Boolean.toString(idempotent));
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
      List<String> values = new ArrayList<>();
      List<Future<RecordMetadata>> answers = new ArrayList<>();
      for (int n = 0; n < number("records"); n++) {
        values.add(args.get("client") + "/" + args.get("tag") + "/" + op + "/" + n);
        answers.add(producer.send(new ProducerRecord<>(tp.topic(), 0, null, values.get(n))));
      }
      producer.flush();
      for (int n = 0; n < answers.size(); n++) {
        RecordMetadata m = answers.get(n).get();
        tell(op, "", values.get(n), m.hasOffset() ? m.offset() : -1, -1, 0, "");
      }
    }
  }

  static Properties reader() {
    Properties p = conf();
    p.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    p.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    p.put("auto.offset.reset", "earliest");
    p.put("enable.auto.commit", "false");
    return p;
  }

  /** Handles count records, commits the position after the last of them, and leaves. */
  static void member(String op, String step, int count) {
    String protocol = op.substring("group ".length());
    Properties p = reader();
    p.put("group.id", args.get("client") + "-" + args.get("tag") + "-" + protocol);
    if (protocol.equals("consumer")) p.put("group.protocol", "consumer");
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(p)) {
      consumer.subscribe(List.of(tp.topic()));
      long last = consume(consumer, op, step, count);
      consumer.commitSync(Map.of(tp, new OffsetAndMetadata(last + 1)));
      OffsetAndMetadata at = consumer.committed(java.util.Set.of(tp)).get(tp);
      tell(op, step + " committed", "", at.offset(), at.leaderEpoch().orElse(-1), 0, "");
    }
  }

  /** Tells of the next records and returns the offset of the last. */
  static long consume(KafkaConsumer<String, String> consumer, String op, String step, int count) {
    long deadline = System.nanoTime() + PATIENCE.toNanos(), last = -1;
    for (int n = 0; n < count; ) {
      if (System.nanoTime() > deadline) throw new IllegalStateException(op + " " + step + ": " + n + " of " + count + " records");
      for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofMillis(200))) {
        if (n++ == count) break;
        tell(op, step, r.value(), r.offset(), r.leaderEpoch().orElse(-1), 0, "");
        last = r.offset();
      }
    }
    return last;
  }

  /** Reads from a position of its own, and asks for positions by time. */
  static void assign() {
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(reader())) {
      consumer.assign(List.of(tp));
      consumer.seek(tp, Long.parseLong(args.get("from")));
      consume(consumer, "assign", "", number("rest"));
      for (String text : args.get("times").split(",")) {
        var at = consumer.offsetsForTimes(Map.of(tp, Long.parseLong(text))).get(tp);
        tell("offset by time", "", "", at == null ? -1 : at.offset(), at == null ? -1 : at.leaderEpoch().orElse(-1), Long.parseLong(text), "");
      }
    }
  }

  /** describeTopics answers by allTopicNames since 3.1, and by all before. */
  @SuppressWarnings("unchecked")
  static TopicDescription described(Admin admin) throws Exception {
    DescribeTopicsResult answer = admin.describeTopics(List.of(tp.topic()));
    Object described;
    try {
      described = answer.getClass().getMethod("allTopicNames").invoke(answer);
    } catch (NoSuchMethodException before31) {
      described = answer.getClass().getMethod("all").invoke(answer);
    }
    return ((KafkaFuture<Map<String, TopicDescription>>) described).get().get(tp.topic());
  }

  static void identities() throws Exception {
    try (Admin admin = Admin.create(conf())) {
      var cluster = admin.describeCluster();
      tell("cluster id", "", "", -1, -1, 0, cluster.clusterId().get());
      for (var node : cluster.nodes().get()) tell("node id", "", "", -1, -1, 0, node.idString());
      tell("node id", "", "", -1, -1, 0, cluster.controller().get().idString());
      var topic = described(admin);
      for (var method : topic.getClass().getMethods()) // since 3.1
        if (method.getName().equals("topicId")) tell("topic id", "", "", -1, -1, 0, method.invoke(topic).toString());
      tell("leader", "", "", -1, -1, 0, topic.partitions().get(0).leader().idString());
      var resource = new ConfigResource(ConfigResource.Type.TOPIC, tp.topic());
      tell("setting", "", "", -1, -1, 0, admin.describeConfigs(List.of(resource)).all().get().get(resource).get("cleanup.policy").value());
    }
  }
}
