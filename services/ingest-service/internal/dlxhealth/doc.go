// Package dlxhealth watches that the broker dead-letters, on which retries and the dead letters of the broker itself depend.
//
// RabbitMQ does that with one process for each quorum queue, under one supervisor for each node. When that supervisor ends, which
// takes a message that its code does not expect, or many crashes in a short time (rabbitmq-server#16652), nothing restarts it:
// messages are published, consumed and stored as ever, but nothing returns from a retry tier, nothing that expires becomes a dead
// letter, and no queue that dead-letters at least once can be made, which ends the making of tenants.
//
// A canary, a message that expires on purpose, shows that it works on the node that this instance is connected to, and in the
// tier that all instances share. Another one shows that messages with a header x-death, which is what such code stumbles over
// before RabbitMQ 4.0, are refused. Where the management API is known, messages that wait to be dead-lettered and do
// not become fewer are noticed as well. What is found is told as degraded: an instance that is not ready would help nobody.
package dlxhealth
