package fault

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain knows of goroutines that toxiproxy leaves behind: a connection of which one side is gone while the other one
// still sends has nobody to hand the data to, and waits for ever.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
}
