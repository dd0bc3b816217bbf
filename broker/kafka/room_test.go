package kafka

import (
	"errors"
	"maps"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
)

func TestLogDirsOfAnAnswer(t *testing.T) {
	dir := func(path string, code int16, change func(*kmsg.DescribeLogDirsResponseDir)) kmsg.DescribeLogDirsResponseDir {
		d := kmsg.NewDescribeLogDirsResponseDir()
		d.Dir, d.ErrorCode = path, code
		change(&d)
		return d
	}
	same := func(*kmsg.DescribeLogDirsResponseDir) {}
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	resp.Dirs = []kmsg.DescribeLogDirsResponseDir{
		dir("/a", 0, func(d *kmsg.DescribeLogDirsResponseDir) {
			d.TotalBytes, d.UsableBytes = 100, 40
			d.Topics = []kmsg.DescribeLogDirsResponseDirTopic{{Topic: "orders", Partitions: []kmsg.DescribeLogDirsResponseDirTopicPartition{{Partition: 0, Size: 7}, {Partition: 1, Size: 9, IsFuture: true}}}}
		}),
		dir("/b", kerr.KafkaStorageError.Code, same),
	}
	sizes := map[spillway.TopicPartition]int64{{Topic: "orders"}: 7}
	for _, room := range []bool{true, false} {
		dirs, err := logDirs(resp, room)
		if err != nil || len(dirs) != 2 || !maps.Equal(dirs[0].Sizes, sizes) || dirs[0].Offline || !dirs[1].Offline || dirs[1].UsableBytes != -1 {
			t.Fatalf("%+v, %v", dirs, err)
		}
		if d := dirs[0]; room && (d.TotalBytes != 100 || d.UsableBytes != 40) || !room && (d.TotalBytes != -1 || d.UsableBytes != -1) {
			t.Errorf("told %v: %+v", room, d)
		}
	}
	resp.Dirs = append(resp.Dirs, dir("/c", kerr.ClusterAuthorizationFailed.Code, same))
	if dirs, err := logDirs(resp, true); !errors.Is(err, broker.ErrNotAuthorized) {
		t.Errorf("%+v, %v", dirs, err)
	}
}
