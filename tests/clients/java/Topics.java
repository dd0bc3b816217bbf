import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsResult;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * An application's administration of topics, one step after the other, by the words of the command line. Each step
 * prints one line: its words, a colon, and what the client was told.
 */
public class Topics {
  static Properties conf;

  public static void main(String[] args) throws Exception {
    conf = new Properties();
    conf.put("bootstrap.servers", args[0]);
    conf.put("client.id", "topics-of-java");
    try (Admin admin = Admin.create(conf)) {
      for (int i = 1; i < args.length; i++) {
        String told;
        try {
          told = step(admin, args[i].split(" "));
        } catch (ExecutionException e) {
          told = e.getCause().getClass().getSimpleName() + " " + e.getCause().getMessage();
        }
        System.out.println(args[i] + ": " + told);
      }
    }
  }

  static String step(Admin admin, String[] w) throws Exception {
    switch (w[0]) {
      case "create": {
        Map<String, String> configs = new HashMap<>();
        for (int i = 4; i < w.length; i++) configs.put(w[i].split("=")[0], w[i].split("=")[1]);
        CreateTopicsResult r = admin.createTopics(List.of(new NewTopic(w[1], Integer.parseInt(w[2]), Short.parseShort(w[3])).configs(configs)));
        r.all().get();
        return r.numPartitions(w[1]).get() + " partitions, id as described: "
            + r.topicId(w[1]).get().equals(admin.describeTopics(List.of(w[1])).allTopicNames().get().get(w[1]).topicId());
      }
      case "partitions":
        return partitions(admin, w[1]);
      case "set": {
        Collection<AlterConfigOp> ops = new ArrayList<>();
        for (int i = 2; i < w.length; i++) ops.add(new AlterConfigOp(new ConfigEntry(w[i].split("=")[0], w[i].split("=")[1]), AlterConfigOp.OpType.SET));
        admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, w[1]), ops)).all().get();
        return "done";
      }
      case "settings": {
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, w[1]);
        Config c = admin.describeConfigs(List.of(r)).all().get().get(r);
        List<String> values = new ArrayList<>();
        for (int i = 2; i < w.length; i++) values.add(w[i] + "=" + c.get(w[i]).value());
        return String.join(" ", values);
      }
      case "produce": {
        long last = -1;
        try (KafkaProducer<String, String> p = new KafkaProducer<>(conf, new StringSerializer(), new StringSerializer())) {
          for (int i = 0; i < Integer.parseInt(w[3]); i++) last = p.send(new ProducerRecord<>(w[1], Integer.parseInt(w[2]), null, "v" + i)).get().offset();
        }
        return "last " + last;
      }
      default:
        throw new IllegalArgumentException(w[0]);
    }
  }

  static String partitions(Admin admin, String topic) throws Exception {
    return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size() + " partitions";
  }
}
