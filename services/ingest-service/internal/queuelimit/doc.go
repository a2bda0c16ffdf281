// Package queuelimit has RabbitMQ hold tenants' queues to their limits, queue_max_messages and queue_max_bytes: beyond them a queue
// refuses what is published.
//
// The arguments of a queue cannot be changed, so this is done with policies, over the management API. One policy holds for all tenants
// that have the most common limits; those with others are named, as an alternation of ids, by policies of a higher priority, one for each
// combination of limits and some hundreds of tenants. RabbitMQ compiles the pattern of every policy for every queue whenever one of them
// changes, so that their length counts: a policy for each tenant would take minutes at a thousand of them, see plan.
//
// The registry alone says what is wanted. It is read when it has changed, compared with the policies that are there, and what differs is
// written. There is no state but that of the broker: what dies half-way is completed by the next round of any instance, and two that write
// at the same time write the same. As a rule one of the instances does; the others look now and then. Policies with other names than ours
// are never touched.
//
// Only one policy applies to a queue, and one of somebody else may win. Besides, an argument of the queue holds beside any policy, whichever
// is lower. So the queues are looked at, too: what is not in force is in the status of its tenant ([contract.QueueLimits]), and a policy that
// makes a queue drop its oldest messages instead of refusing new ones is an alarm, since it loses what was accepted.
package queuelimit
