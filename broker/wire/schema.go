package wire

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

//go:generate sh -c "go run ./internal/schemagen > schema.tmp && mv schema.tmp schema.txt"

// schema.txt has one line for each run of versions in which a message has the
// same structure: kind, key, first version, last version, name, and a program
// after a dot. In a program a letter is a field:
//
//	b h i l u  1, 2, 4, 8, 16 bytes (bool and int8; int16; int32; int64; uuid)
//	s n y z    string, nullable string, bytes, nullable bytes; capital: compact
//	[ ] { }    array, compact array; 0 before it: null is allowed
//	?( )       a struct that may be absent, after one byte that says so
//	T(n:…;)    tagged fields, with the structure of those that are known
//
//go:embed schema.txt
var schemaText string

// op is one compiled letter.
type op struct {
	letter   byte // as above; '[' for both kinds of arrays
	compact  bool
	nullable bool
	children []op            // of an array's element or an optional struct
	fields   map[uint32][]op // of known tags
	minBytes int             // an element takes at least so many bytes on the wire
	cost     int             // and about so many in memory once decoded
}

type messageKind byte

const (
	request messageKind = iota
	response
)

// programs by kind, key and version.
var programs = sync.OnceValue(func() map[[3]int16][]op {
	table := map[[3]int16][]op{}
	for line := range strings.Lines(schemaText) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		kind := request
		if f[0] == "response" {
			kind = response
		}
		key, first, last := number(f[1]), number(f[2]), number(f[3])
		c := compiler{text: strings.TrimPrefix(f[5], ".")}
		ops := c.ops()
		if c.text != "" {
			panic(fmt.Sprintf("schema.txt: %s: %q is left", f[4], c.text))
		}
		for v := first; v <= last; v++ {
			table[[3]int16{int16(kind), key, v}] = ops
		}
	}
	return table
})

func number(s string) int16 {
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil {
		panic("schema.txt: " + err.Error())
	}
	return int16(n)
}

type compiler struct{ text string }

// ops compiles up to the end or a closing bracket.
func (c *compiler) ops() (ops []op) {
	for c.text != "" && !strings.ContainsRune("]});", rune(c.text[0])) {
		o := op{letter: c.next()}
		if o.letter == '0' {
			o.nullable, o.letter = true, c.next()
		}
		switch o.letter {
		case '[', '{':
			o.compact, o.letter = o.letter == '{', '['
			o.children = c.ops()
			c.next()
		case '?', 'T':
			c.next()
			if o.letter == '?' {
				o.children = c.ops()
			} else {
				o.fields = c.fields()
			}
			c.next()
		}
		o.minBytes, o.cost = weigh(o.children)
		ops = append(ops, o)
	}
	return ops
}

func (c *compiler) fields() map[uint32][]op {
	var fields map[uint32][]op
	for c.text != "" && c.text[0] != ')' {
		tag, rest, _ := strings.Cut(c.text, ":")
		c.text = rest
		if fields == nil {
			fields = map[uint32][]op{}
		}
		fields[uint32(number(tag))] = c.ops()
		c.next() // ;
	}
	return fields
}

func (c *compiler) next() byte {
	b := c.text[0]
	c.text = c.text[1:]
	return b
}

// weigh sums what a struct takes at least on the wire, and in memory without
// what its own arrays, strings and bytes point to.
func weigh(ops []op) (minBytes, cost int) {
	for _, o := range ops {
		wire, memory := 1, 24
		switch o.letter {
		case 'b':
			wire, memory = 1, 1
		case 'h':
			wire, memory = 2, 2
		case 'i':
			wire, memory = 4, 4
		case 'l':
			wire, memory = 8, 8
		case 'u':
			wire, memory = 16, 16
		case 's', 'n':
			wire = 2
		case 'y', 'z':
			wire = 4
		case 'S', 'N', 'Y', 'Z':
			wire = 1
		case '[':
			if !o.compact {
				wire = 4
			}
		case '?':
			memory = 8 + o.cost
		case 'T':
			memory = 8
		}
		minBytes, cost = minBytes+wire, cost+memory
	}
	return minBytes, cost
}
