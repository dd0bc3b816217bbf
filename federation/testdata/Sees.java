import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

/** Prints every number of the cluster that a Java client sees, one "name value" a line. */
class Sees {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        p.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        p.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        p.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        try (Admin admin = Admin.create(p)) {
            var cluster = admin.describeCluster();
            System.out.println("cluster " + cluster.clusterId().get());
            for (var node : cluster.nodes().get()) {
                System.out.println("node " + node.id());
            }
            var description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            System.out.println("topic " + description.topicId());
            for (var partition : description.partitions()) {
                System.out.println("leader " + partition.leader().id());
            }
        }
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
            for (int i = 0; i < 100; i++) {
                var at = producer.send(new ProducerRecord<>(topic, 0, null, "java-" + i)).get();
                System.out.println("produced " + at.offset());
            }
        }
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(p)) {
            consumer.assign(List.of(tp));
            consumer.seekToBeginning(List.of(tp));
            System.out.println("begin " + consumer.beginningOffsets(List.of(tp)).get(tp));
            long end = consumer.endOffsets(List.of(tp)).get(tp);
            System.out.println("end " + end);
            long deadline = System.nanoTime() + Duration.ofSeconds(30).toNanos();
            while (consumer.position(tp) < end && System.nanoTime() < deadline) {
                for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofMillis(200))) {
                    System.out.println("consumed " + r.offset());
                    System.out.println("epoch " + r.leaderEpoch().map(String::valueOf).orElse("none"));
                }
            }
        }
    }
}
