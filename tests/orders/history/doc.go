// Package history is what the clients of an order workload were told, as a
// stream of events, one JSON object per line. The workload of package orders
// writes it, and so does a client in any other language, on its standard
// output:
//
//	{"t":1795413600000000000,"e":"start","client":"java-1","role":"producer","idempotent":true,"acks":"all"}
//	{"t":1795413600000100000,"e":"invoke","client":"java-1","payload":"java-1/orders/3/17"}
//	{"t":1795413600004100000,"e":"ack","client":"java-1","payload":"java-1/orders/3/17","offset":1042}
//	{"t":1795413600004900000,"e":"consume","client":"kcat-1","topic":"orders","partition":3,"offset":1042,"payload":"java-1/orders/3/17"}
//
// An event is written after the fact that it tells (ack, consume, commit) or
// before the call that it opens (start, invoke), and flushed, so that a killed
// client leaves a history that is true as far as it goes. Times are those of
// one machine, or of machines whose clocks agree to within the checker's
// ClockSlack. The constants of type Kind say what each kind carries; Payload
// says how record values look.
//
// The package knows no Kafka library.
package history
