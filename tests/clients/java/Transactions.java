// Transactions is an ordinary Java application with transactions, as Kafka's own
// examples write it. It knows nothing of sites and moves: an error that is not fatal is
// answered with an abort, and the same records are written or read again.
//
//   java -cp KAFKA-CLIENTS Transactions NAME=VALUE ...
//
// role=write: writes records numbered from 0 in transactions of five, then ends.
// role=copy: reads committed records and writes their values, with the positions in
// the same transaction, until its standard input ends.
// bootstrap=HOST:PORT,...  id=TRANSACTIONAL_ID  from=TOPIC  to=TOPIC  group=NAME  records=N  pause=MILLISECONDS

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.UnknownProducerIdException;

public class Transactions {
  static final Map<String, String> args = new HashMap<>();
  static final AtomicBoolean STOPPING = new AtomicBoolean();

  public static void main(String[] argv) throws Exception {
    for (String a : argv) {
      int eq = a.indexOf('=');
      args.put(a.substring(0, eq), a.substring(eq + 1));
    }
    Thread stdin = new Thread(() -> {
      try {
        while (System.in.read() >= 0) {}
      } catch (java.io.IOException e) {
        e.printStackTrace();
      }
      STOPPING.set(true);
    });
    stdin.setDaemon(true);
    stdin.start();
    Properties conf = new Properties();
    conf.put("bootstrap.servers", args.get("bootstrap"));
    conf.put("transactional.id", args.get("id"));
    conf.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    conf.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(conf)) {
      producer.initTransactions();
      if (args.get("role").equals("write")) write(producer);
      else copy(producer);
    }
    System.err.println("done");
  }

  interface Work {
    void run() throws Exception;
  }

  // transaction tells whether it was committed.
  static boolean transaction(KafkaProducer<String, String> producer, Work work) throws Exception {
    try {
      producer.beginTransaction();
      work.run();
      producer.commitTransaction();
      return true;
    } catch (ProducerFencedException | AuthorizationException e) {
      throw e; // final, as the documentation of KafkaProducer says
    } catch (KafkaException e) {
      if (e instanceof OutOfOrderSequenceException && !(e instanceof UnknownProducerIdException)) throw e;
      System.err.println("aborts: " + e);
      producer.abortTransaction();
      return false;
    }
  }

  static void write(KafkaProducer<String, String> producer) throws Exception {
    int records = Integer.parseInt(args.get("records"));
    for (int n = 0; n < records; ) {
      int from = n;
      boolean committed = transaction(producer, () -> {
        for (int i = from; i < Math.min(from + 5, records); i++)
          producer.send(new ProducerRecord<>(args.get("to"), String.valueOf(i), String.format("value-%06d", i)));
      });
      if (committed) n += 5;
      Thread.sleep(Integer.parseInt(args.get("pause")));
    }
  }

  static void copy(KafkaProducer<String, String> producer) throws Exception {
    Properties conf = new Properties();
    conf.put("bootstrap.servers", args.get("bootstrap"));
    conf.put("group.id", args.get("group"));
    conf.put("enable.auto.commit", "false");
    conf.put("auto.offset.reset", "earliest");
    conf.put("isolation.level", "read_committed");
    conf.put("max.poll.records", "20");
    conf.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    conf.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(conf)) {
      consumer.subscribe(List.of(args.get("from")));
      while (!STOPPING.get()) {
        ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
        if (records.isEmpty()) continue;
        boolean committed = transaction(producer, () -> {
          Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
          for (ConsumerRecord<String, String> r : records) {
            producer.send(new ProducerRecord<>(args.get("to"), r.key(), r.value()));
            next.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
          }
          producer.sendOffsetsToTransaction(next, consumer.groupMetadata());
        });
        if (!committed) rewind(consumer);
      }
    }
  }

  // rewind goes back to what is committed.
  static void rewind(KafkaConsumer<String, String> consumer) {
    Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(consumer.assignment());
    for (TopicPartition tp : consumer.assignment()) {
      OffsetAndMetadata at = committed.get(tp);
      if (at == null) consumer.seekToBeginning(List.of(tp));
      else consumer.seek(tp, at.offset());
    }
  }
}
