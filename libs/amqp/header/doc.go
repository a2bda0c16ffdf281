// Package header reads and writes what the content header of a message holds as it is on the wire: its [Properties], and among
// them the headers, a field [Table]. Producers decide what is in it, so nothing here recurses or takes memory in proportion to what
// the bytes claim, and what is not decoded is kept to the byte.
//
// Section 4.2.5.5 of the specification of AMQP 0-9-1 has the field tables, 4.2.6 the content, and the RabbitMQ errata the types of
// fields. Frames are the business of package wire.
package header
