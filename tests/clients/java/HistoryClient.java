// HistoryClient is an ordinary Java Kafka client that writes down what it was
// told, in the format of package tests/orders/history: one JSON object per line
// on standard output. It ends when its standard input ends: a producer flushes
// first, a reader goes on until it has got nothing for five seconds.
//
//   java -cp KAFKA-CLIENTS HistoryClient.java NAME=VALUE ...
//
// roles=producer,group,assign (each in a thread of its own, as client NAME-producer, ...)
// bootstrap=HOST:PORT,...  client=NAME
// topics=a,b  partitions=N  rate=RECORDS_PER_SECOND  idempotent=true|false
// acks=0|1|all  group=NAME  protocol=classic|consumer  conf.KEY=VALUE (any Kafka setting)

import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetCommitCallback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

public class HistoryClient {
  static final PrintStream OUT =
      new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, StandardCharsets.UTF_8);
  static final AtomicBoolean STOPPING = new AtomicBoolean();
  static final long NANOS_BASE = System.currentTimeMillis() * 1_000_000L - System.nanoTime();
  static final Map<String, String> args = new HashMap<>();

  final String client; // unique in the history
  final Properties conf = new Properties();

  HistoryClient(String role, Properties common) {
    client = args.get("client") + "-" + role;
    conf.putAll(common);
    conf.putIfAbsent("client.id", client);
  }

  public static void main(String[] argv) throws Exception {
    Properties conf = new Properties();
    for (String a : argv) {
      int eq = a.indexOf('=');
      String name = a.substring(0, eq), value = a.substring(eq + 1);
      if (name.startsWith("conf.")) conf.put(name.substring(5), value);
      else args.put(name, value);
    }
    conf.put("bootstrap.servers", args.get("bootstrap"));
    daemon("stdin", HistoryClient::waitForEnd);
    daemon("flusher", HistoryClient::flushAlways);
    List<Thread> threads = new ArrayList<>();
    for (String role : args.get("roles").split(",")) {
      Thread thread = new Thread(() -> new HistoryClient(role, conf).run(role), role);
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) thread.join();
    OUT.flush();
    System.exit(failed.get() ? 1 : 0);
  }

  static final AtomicBoolean failed = new AtomicBoolean();

  static void daemon(String name, Runnable work) {
    Thread thread = new Thread(work, name);
    thread.setDaemon(true);
    thread.start();
  }

  void run(String role) {
    try {
      switch (role) {
        case "producer" -> produce();
        case "group" -> readInGroup();
        case "assign" -> readAssigned();
        default -> throw new IllegalArgumentException("role is none of producer, group, assign");
      }
      emit("stop", role.equals("producer") ? "" : ",\"drained\":true");
    } catch (Exception e) {
      e.printStackTrace();
      failed.set(true);
    }
  }

  static void waitForEnd() {
    try {
      while (System.in.read() >= 0) {}
    } catch (Exception e) {
      // A broken standard input means the same as its end.
    }
    STOPPING.set(true);
  }

  // What was told is on its way within 50 ms, so that a killed client leaves a
  // history that is true as far as it goes.
  static void flushAlways() {
    try {
      while (true) {
        Thread.sleep(50);
        OUT.flush();
      }
    } catch (InterruptedException e) {
      // The client is going down; main flushes.
    }
  }

  void emit(String kind, String fields) {
    synchronized (OUT) {
      OUT.print("{\"t\":" + (NANOS_BASE + System.nanoTime()) + ",\"e\":\"" + kind + "\",\"client\":\"" + client + "\"" + fields + "}\n");
    }
  }

  static String where(String topic, int partition, long offset) {
    return ",\"topic\":\"" + topic + "\",\"partition\":" + partition + (offset >= 0 ? ",\"offset\":" + offset : "");
  }

  static String quoted(Throwable t) {
    return "\"" + String.valueOf(t).replace("\\", "/").replace("\"", "'").replaceAll("\\s+", " ") + "\"";
  }

  static List<TopicPartition> partitions() {
    List<TopicPartition> all = new ArrayList<>();
    for (String topic : args.get("topics").split(","))
      for (int p = 0; p < Integer.parseInt(args.get("partitions")); p++) all.add(new TopicPartition(topic, p));
    return all;
  }

  void produce() throws Exception {
    boolean idempotent = Boolean.parseBoolean(args.getOrDefault("idempotent", "true"));
    String acks = args.getOrDefault("acks", "all");
    conf.put("enable.idempotence", Boolean.toString(idempotent));
    conf.put("acks", acks);
    conf.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    conf.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    conf.putIfAbsent("linger.ms", "5");
    emit("start", ",\"role\":\"producer\",\"acks\":\"" + acks + "\"" + (idempotent ? ",\"idempotent\":true" : ""));
    List<TopicPartition> all = partitions();
    long[] counters = new long[all.size()];
    double rate = Double.parseDouble(args.get("rate"));
    long begun = System.nanoTime();
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(conf)) {
      for (long n = 0; !STOPPING.get(); n++) {
        pace(begun, n, rate);
        int i = (int) (n % all.size());
        TopicPartition tp = all.get(i);
        String id = client + "/" + tp.topic() + "/" + tp.partition() + "/" + counters[i]++;
        String key = "sale-" + client + "-" + (n / all.size());
        emit("invoke", ",\"payload\":\"" + id + "\"");
        producer.send(new ProducerRecord<>(tp.topic(), tp.partition(), key, payload(id, key)), (m, e) -> {
          if (e != null) emit("fail", ",\"payload\":\"" + id + "\",\"error\":" + quoted(e));
          else emit("ack", ",\"payload\":\"" + id + "\"" + (m.hasOffset() ? ",\"offset\":" + m.offset() : ""));
        });
      }
      producer.flush();
    }
  }

  static void pace(long begun, long n, double rate) throws InterruptedException {
    long ahead = begun + (long) (n * 1e9 / rate) - System.nanoTime();
    if (ahead > 0) Thread.sleep(ahead / 1_000_000, (int) (ahead % 1_000_000));
  }

  static String payload(String id, String order) {
    String body = id + " order=" + order;
    CRC32 crc = new CRC32();
    crc.update(body.getBytes(StandardCharsets.UTF_8));
    return body + String.format(" sum=%08x", crc.getValue());
  }

  static Properties reader(Properties conf) {
    conf.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    conf.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    conf.putIfAbsent("auto.offset.reset", "earliest");
    return conf;
  }

  static final long QUIET_NANOS = 5_000_000_000L;
  long lastRecord; // or when it was looked last and could not have come; 0 before the first look

  // reading is over when the client shall stop and nothing comes any more from
  // the partitions that it has: one that is slow to get them has not read to the end.
  boolean reading(KafkaConsumer<?, ?> consumer) {
    if (!STOPPING.get() || lastRecord == 0 || consumer.assignment().isEmpty()) {
      lastRecord = System.nanoTime();
      return true;
    }
    return System.nanoTime() - lastRecord < QUIET_NANOS;
  }

  void readInGroup() {
    String group = args.get("group");
    conf.put("group.id", group);
    conf.put("enable.auto.commit", "false");
    if ("consumer".equals(args.get("protocol"))) conf.put("group.protocol", "consumer");
    emit("start", ",\"role\":\"group\",\"group\":\"" + group + "\"");
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(reader(conf))) {
      Commits commits = new Commits(consumer, group);
      consumer.subscribe(List.of(args.get("topics").split(",")), commits);
      while (reading(consumer)) {
        for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofMillis(100))) consumed(r);
        commits.everySecond();
      }
      commits.commit();
    }
  }

  // Commits commits once a second and before partitions are given away, as a
  // careful application does, and writes down what the coordinator said.
  class Commits implements ConsumerRebalanceListener, OffsetCommitCallback {
    final KafkaConsumer<String, String> consumer;
    final String group;
    long next = System.nanoTime();

    Commits(KafkaConsumer<String, String> consumer, String group) {
      this.consumer = consumer;
      this.group = group;
    }

    Map<TopicPartition, OffsetAndMetadata> positions() {
      Map<TopicPartition, OffsetAndMetadata> at = new HashMap<>();
      for (TopicPartition tp : consumer.assignment()) at.put(tp, new OffsetAndMetadata(consumer.position(tp)));
      return at;
    }

    void everySecond() {
      if (System.nanoTime() < next) return;
      next = System.nanoTime() + 1_000_000_000L;
      consumer.commitAsync(positions(), this);
    }

    void commit() {
      Map<TopicPartition, OffsetAndMetadata> at = positions();
      try {
        consumer.commitSync(at, Duration.ofSeconds(10));
        onComplete(at, null);
      } catch (Exception e) {
        onComplete(at, e);
      }
    }

    @Override
    public void onComplete(Map<TopicPartition, OffsetAndMetadata> at, Exception e) {
      if (at == null) return; // 4.3.1, KIP-848: a commit that failed before it was sent
      at.forEach((tp, o) -> emit("commit", ",\"group\":\"" + group + "\"" + where(tp.topic(), tp.partition(), o.offset())
          + (e == null ? "" : ",\"error\":" + quoted(e))));
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> gone) {
      commit();
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> got) {
      for (TopicPartition tp : got) emit("position", where(tp.topic(), tp.partition(), consumer.position(tp)));
    }
  }

  void readAssigned() {
    emit("start", ",\"role\":\"assign\"");
    conf.put("enable.auto.commit", "false");
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(reader(conf))) {
      List<TopicPartition> all = partitions();
      consumer.assign(all);
      Map<TopicPartition, Long> first = consumer.beginningOffsets(all);
      first.forEach((tp, o) -> {
        emit("position", where(tp.topic(), tp.partition(), o));
        consumer.seek(tp, o);
      });
      while (reading(consumer))
        for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofMillis(100))) consumed(r);
    }
  }

  void consumed(ConsumerRecord<String, String> r) {
    lastRecord = System.nanoTime();
    String id = r.value().substring(0, r.value().indexOf(' '));
    emit("consume", where(r.topic(), r.partition(), r.offset()) + ",\"payload\":\"" + id + "\"");
  }
}
