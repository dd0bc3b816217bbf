package orders

import (
	"fmt"
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The topics of the order system. They are co-partitioned: created with the
// same number of partitions, and keyed by the order's id.
const (
	Orders    = "orders"
	Carts     = "carts"
	Inventory = "inventory"
)

// Topics lists them.
var Topics = []string{Orders, Carts, Inventory}

// A sale offers SaleStock things to SaleOrders orders.
const (
	SaleOrders = 10
	SaleStock  = 5
)

// saleEvery is how many plans there are from one sale to the next.
const saleEvery = 40

// Steps of an order.
const (
	Placed    = "placed"
	Packed    = "packed"
	Reserved  = "reserved"
	Missing   = "missing"
	Paid      = "paid"
	Shipped   = "shipped"
	Delivered = "delivered"
	Cancelled = "cancelled"
	Refunded  = "refunded"
	Emptied   = "emptied"
)

// step is one record to be sent, after those it follows (places in the plan).
type step struct {
	topic string
	name  string
	after []int
}

// plan is one order.
type plan struct {
	order string
	sale  string // the sale it belongs to, if any
	steps []step
}

var (
	inStock = []step{
		{Orders, Placed, nil},
		{Carts, Packed, []int{0}}, {Inventory, Reserved, []int{0}}, {Orders, Paid, []int{0}},
		{Orders, Shipped, []int{1, 2, 3}},
		{Orders, Delivered, []int{4}},
	}
	notInStock = []step{
		{Orders, Placed, nil},
		{Inventory, Missing, []int{0}}, {Orders, Paid, []int{0}},
		{Orders, Cancelled, []int{1, 2}},
		{Orders, Refunded, []int{3}}, {Carts, Emptied, []int{3}},
	}
	// The steps of a sale's order up to the decision; inStock or notInStock
	// give the rest.
	undecided = []step{{Orders, Placed, nil}}
)

// plans returns the orders of slot n: one order, or the ten of a sale. The same
// seed gives the same orders.
func plans(seed uint64, n int, partitions int32, sales bool) []plan {
	if sales && n%saleEvery == saleEvery/2 {
		return sale(n, partitions)
	}
	p := plan{order: fmt.Sprintf("order-%d", n), steps: inStock}
	if rand.New(rand.NewPCG(seed, uint64(n))).IntN(5) == 0 {
		p.steps = notInStock
	}
	return []plan{p}
}

// sale makes ten orders whose ids fall into one partition.
func sale(n int, partitions int32) []plan {
	name := fmt.Sprintf("sale-%d", n)
	home := PartitionOf(name, partitions)
	var out []plan
	for try := 0; len(out) < SaleOrders; try++ {
		if order := fmt.Sprintf("%s-%d", name, try); PartitionOf(order, partitions) == home {
			out = append(out, plan{order: order, sale: name, steps: undecided})
		}
	}
	return out
}

// PartitionOf is the partition of an order: the hash of the key that Kafka's
// own clients use, so that clients in all languages agree.
func PartitionOf(order string, partitions int32) int32 {
	p := kgo.StickyKeyPartitioner(nil).ForTopic("")
	return int32(p.Partition(&kgo.Record{Key: []byte(order)}, int(partitions)))
}
