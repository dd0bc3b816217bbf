// Bills is an ordinary Kafka Streams application with exactly-once: it reads orders,
// gives them their customer as key through a repartition topic, keeps for each customer how
// many there were and what they sum up to in a store with a changelog, and writes each new
// state. It knows nothing of sites and moves. What is not set here has Streams' default.
//
//   java -cp KAFKA-STREAMS Bills NAME=VALUE ...
//
// from=TOPIC  to=TOPIC  conf.NAME=VALUE: settings of Streams
//
// An order is "id amount customer", what is written is "customer count sum id", where id is that of
// the order. Ends with its standard input.

import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;

public class Bills {
  public static void main(String[] argv) throws Exception {
    Map<String, String> args = new HashMap<>();
    Properties conf = new Properties();
    for (String a : argv) {
      int eq = a.indexOf('=');
      if (a.startsWith("conf.")) conf.put(a.substring(5, eq), a.substring(eq + 1));
      else args.put(a.substring(0, eq), a.substring(eq + 1));
    }
    conf.put("processing.guarantee", "exactly_once_v2");
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(args.get("from"), Consumed.with(Serdes.String(), Serdes.String()))
        .selectKey((order, value) -> value.split(" ")[2])
        .repartition(Repartitioned.<String, String>as("by-customer").withKeySerde(Serdes.String()).withValueSerde(Serdes.String()))
        .groupByKey()
        .aggregate(() -> "0 0 -", Bills::add, Materialized.<String, String, org.apache.kafka.streams.state.KeyValueStore<org.apache.kafka.common.utils.Bytes, byte[]>>as("sums")
            .withKeySerde(Serdes.String()).withValueSerde(Serdes.String()).withCachingDisabled())
        .toStream()
        .mapValues((customer, state) -> customer + " " + state)
        .to(args.get("to"), Produced.with(Serdes.String(), Serdes.String()));
    KafkaStreams streams = new KafkaStreams(builder.build(), conf);
    CountDownLatch over = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(e -> {
      System.err.println("thread died: " + e);
      e.printStackTrace();
      return StreamThreadExceptionResponse.SHUTDOWN_CLIENT; // the default
    });
    streams.setStateListener((to, from) -> {
      System.err.println("state: " + to);
      if (to == KafkaStreams.State.ERROR) over.countDown();
    });
    Thread stdin = new Thread(() -> {
      try {
        while (System.in.read() >= 0) {}
      } catch (java.io.IOException e) {
        e.printStackTrace();
      }
      over.countDown();
    });
    stdin.setDaemon(true);
    stdin.start();
    streams.start();
    over.await();
    boolean dead = streams.state() == KafkaStreams.State.ERROR;
    System.err.println("threads: " + streams.metadataForLocalThreads().size());
    streams.close();
    System.exit(dead ? 1 : 0);
  }

  static String add(String customer, String order, String state) {
    String[] o = order.split(" "), s = state.split(" ");
    return (Long.parseLong(s[0]) + 1) + " " + (Long.parseLong(s[1]) + Long.parseLong(o[1])) + " " + o[0];
  }
}
