package consumer

import "time"

// Hasten has a queue that does not answer probed at least so often. Call it before Run.
func (c *Consumer) Hasten(longest time.Duration) { c.maxProbePause = longest }
