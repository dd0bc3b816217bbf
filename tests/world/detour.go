package world

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"spillway/tests/cluster/kafka"
)

// Weather is what a long and poor link does to packets. Those that are drawn to wait longer are
// overtaken, so they also arrive in another order.
type Weather struct {
	Delay    time.Duration // of each packet, one way
	Jitter   time.Duration // so much more at most, drawn for each
	Repeated int           // of a hundred packets arrive twice
}

// Passed is what a detour did to packets, both ways together.
type Passed struct{ Packets, Overtaken, Repeated int64 }

func (p Passed) String() string {
	return fmt.Sprintf("%d packets, %d of them overtaken, %d arrived twice", p.Packets, p.Overtaken, p.Repeated)
}

// detour carries the packets between a site's network and the rest of the machine while it is
// there: a tun device at each end, to which a route points that is closer than that of the usual
// way. What is on its way when it is closed is lost.
type detour struct {
	ends    [2]*os.File // here, there
	weather Weather
	running sync.WaitGroup
	passed  struct{ packets, overtaken, repeated atomic.Int64 }
}

// detourPackets is how many packets may be on a detour in one direction; what comes on top is lost.
const detourPackets = 4096

// detourPacket is longer than any packet of a tun device with the usual MTU of 1,500 bytes.
const detourPacket = 2048

// newDetour needs root. The devices, and with them the routes, are gone once it is closed.
func (n *network) newDetour(weather Weather) (*detour, error) {
	d := &detour{weather: weather}
	var err error
	if d.ends[0], err = openTun(n.device + "d"); err != nil {
		return nil, err
	}
	err = n.inside(func() (err error) {
		d.ends[1], err = openTun("detour")
		return err
	})
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	for _, end := range []struct{ at, device, from, to string }{
		{"", n.device + "d", n.here, n.there},
		{"netns exec " + n.name + " ip ", "detour", n.there, n.here},
	} {
		for _, line := range []string{
			end.at + "link set " + end.device + " up",
			end.at + "route add " + end.to + "/32 dev " + end.device + " src " + end.from,
		} {
			if err := kafka.Run("ip", strings.Fields(line)...); err != nil {
				return nil, errors.Join(fmt.Errorf("lead packets of a site over a detour: %w", err), d.close())
			}
		}
	}
	d.running.Go(func() { d.carry(d.ends[1], d.ends[0]) })
	d.running.Go(func() { d.carry(d.ends[0], d.ends[1]) })
	return d, nil
}

func openTun(device string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w; the kernel needs tun, and the test root", err)
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the tun device %s: %w", device, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), device), nil
}

// inside does something in the site's network, on a thread that ends afterwards.
func (n *network) inside(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		there, err := os.Open("/run/netns/" + n.name)
		if err == nil {
			err = errors.Join(unix.Setns(int(there.Fd()), unix.CLONE_NEWNET), there.Close())
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// close ends the detour; packets take the usual way again.
func (d *detour) close() error {
	var errs []error
	for _, f := range d.ends {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	d.running.Wait()
	return errors.Join(errs...)
}

func (d *detour) did() Passed {
	return Passed{d.passed.packets.Load(), d.passed.overtaken.Load(), d.passed.repeated.Load()}
}

// packet is one that is on its way.
type packet struct {
	due    time.Time
	number int64 // in the order in which they were sent
	bytes  []byte
}

type packets []packet

func (p packets) Len() int { return len(p) }
func (p packets) Less(i, j int) bool {
	if p[i].due.Equal(p[j].due) {
		return p[i].number < p[j].number
	}
	return p[i].due.Before(p[j].due)
}
func (p packets) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *packets) Push(x any)   { *p = append(*p, x.(packet)) }
func (p *packets) Pop() any {
	last := len(*p) - 1
	x := (*p)[last]
	*p = (*p)[:last]
	return x
}

// carry hands on what is sent at one end until that is closed.
func (d *detour) carry(to, from *os.File) {
	sent := make(chan []byte, 64)
	d.running.Go(func() {
		defer close(sent)
		b := make([]byte, detourPacket)
		for {
			n, err := from.Read(b)
			if err != nil {
				return // closed
			}
			sent <- append([]byte(nil), b[:n]...)
		}
	})
	var way packets
	var count, latest int64
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if len(way) > 0 {
			timer.Reset(time.Until(way[0].due))
		} else {
			timer.Reset(time.Hour)
		}
		select {
		case b, ok := <-sent:
			if !ok {
				return
			}
			if len(way) == detourPackets {
				continue
			}
			count++
			heap.Push(&way, packet{d.arrives(), count, b})
			if rand.IntN(100) < d.weather.Repeated {
				heap.Push(&way, packet{d.arrives(), count, b})
				d.passed.repeated.Add(1)
			}
		case <-timer.C:
			for len(way) > 0 && !time.Now().Before(way[0].due) {
				p := heap.Pop(&way).(packet)
				if _, err := to.Write(p.bytes); err != nil {
					continue // the other end is being closed, or its queue is full: lost
				}
				d.passed.packets.Add(1)
				if p.number < latest {
					d.passed.overtaken.Add(1)
				}
				latest = max(latest, p.number)
			}
		}
	}
}

func (d *detour) arrives() time.Time {
	return time.Now().Add(d.weather.Delay + time.Duration(rand.Int64N(int64(d.weather.Jitter)+1)))
}
