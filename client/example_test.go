package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// From a tenant to its messages, as the README of the platform does it with curl.
func Example() {
	c, stop := start(&fake{}) // client.New(client.URLs{…}, client.StaticToken(token))
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	tenant, err := c.CreateTenant(ctx, client.NewTenant{Name: "acme"}, client.Wait())
	if err != nil {
		fmt.Println(err)
		return
	}
	c = c.With(client.WithTenant(tenant.ID)) // an administrator names the tenant; a tenant's own token does

	type Order struct {
		Type  string  `json:"type"`
		Total float64 `json:"total"`
	}
	if _, err := c.Publish(ctx, client.Publishing{Payload: Order{"order.created", 19.99}}); err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range c.Messages(client.MessageQuery{}).All(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", m.Payload)
	}
	// Output: {"type":"order.created","total":19.99}
}

// A broker that refuses for the moment costs time and no message. An id that is made of the order's own number keeps a
// program that was restarted from publishing the order twice.
func ExampleClient_Publish() {
	c, stop := start(&fake{refusals: 2})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	acme, err := client.ParseID("6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11")
	if err != nil {
		fmt.Println(err)
		return
	}
	order := client.Publishing{ID: client.NameID(acme, "order-17"), Payload: map[string]any{"order": 17}}
	for range 2 {
		id, err := c.Publish(ctx, order)
		fmt.Println(id, err)
	}
	for m, err := range c.Messages(client.MessageQuery{}).All(ctx) {
		fmt.Printf("stored: %s %v\n", m.Payload, err)
	}
	// Output:
	// 78fbcdb3-b47e-5d68-a451-dea55094b351 <nil>
	// 78fbcdb3-b47e-5d68-a451-dea55094b351 <nil>
	// stored: {"order":17} <nil>
}

func ExampleClient_PublishBatch() {
	c, stop := start(&fake{})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	results, err := c.PublishBatch(ctx, []client.Publishing{
		{Payload: map[string]int{"n": 1}},
		{Payload: make(chan int)}, // not JSON: costs its neighbours nothing
		{Payload: map[string]int{"n": 3}},
	})
	for i, r := range results {
		fmt.Printf("message %d accepted: %t\n", i+1, r.Err == nil)
	}
	fmt.Println("all accepted:", err == nil)
	// Output:
	// message 1 accepted: true
	// message 2 accepted: false
	// message 3 accepted: true
	// all accepted: false
}

func ExamplePublisher() {
	c, stop := start(&fake{refusals: 1})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	p := c.NewPublisher(client.PublisherConfig{
		OnResult: func(r client.Result) {
			if r.Err != nil {
				fmt.Println(r.ID, r.Err)
			}
		},
	})
	for n := range 500 { // from as many goroutines as you like
		if _, err := p.Publish(ctx, client.Publishing{Payload: n}); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("accepted all:", p.Close(ctx) == nil)

	stored := 0
	for _, err := range c.Messages(client.MessageQuery{}).All(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		stored++
	}
	fmt.Println("stored:", stored)
	// Output:
	// accepted all: true
	// stored: 500
}

// A program that follows its tenant's messages and continues where it stopped.
func ExampleReader_Follow() {
	c, stop := start(&fake{})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for n := range 3 {
		if _, err := c.Publish(ctx, client.Publishing{Payload: n}); err != nil {
			fmt.Println(err)
			return
		}
	}

	saved := "" // kept with what the program makes of the messages
	r := c.Messages(client.MessageQuery{Cursor: saved})
	for m, err := range r.Follow(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", m.Payload)
		saved = r.Cursor()
		if string(m.Payload) == "2" {
			break
		}
	}
	fmt.Println("another process continues behind the first page:", saved)
	// Output:
	// 0
	// 1
	// 2
	// another process continues behind the first page: 2
}

// Page by page, where a page and its cursor are kept in one transaction: then nothing comes twice.
func ExamplePager_Next() {
	c, stop := start(&fake{})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for n := range 3 {
		if _, err := c.Publish(ctx, client.Publishing{Payload: n}); err != nil {
			fmt.Println(err)
			return
		}
	}

	r := c.Messages(client.MessageQuery{})
	for more := true; more; {
		page, err := r.Next(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(len(page.Items), "messages, then", page.NextCursor)
		more = page.HasMore
	}
	// Output:
	// 2 messages, then 2
	// 1 messages, then 3
}

func ExampleProblem() {
	c, stop := start(&fake{})
	defer stop()

	_, err := c.Message(context.Background(), client.NameID(client.ID{}, "unknown"))
	if errors.Is(err, client.ErrNotStored) {
		fmt.Println("not stored, or not yet")
	}
	if p, ok := errors.AsType[*client.Problem](err); ok {
		fmt.Println(p.Status, p.Code, p.RequestID, p.Retryable())
	}
	// Output:
	// not stored, or not yet
	// 404 not_stored 7c1e false
}

// All of them are meant only where that is said.
func ExampleClient_DropDeadLetters() {
	c, stop := start(&fake{})
	defer stop()
	ctx := context.Background()

	_, err := c.DropDeadLetters(ctx, client.DeadLetterFilter{})
	fmt.Println(err)
	dropped, err := c.DropDeadLetters(ctx, client.DeadLetterFilter{Reason: "not_json"})
	fmt.Println(dropped, err)
	// Output:
	// drop dead letters: the filter must say which dead letters are meant, or All, and not both
	// 3 <nil>
}

// Counting repeats, and a token from the environment of the process.
func ExampleWithObserver() {
	tokens := client.TokenFunc(func(_ context.Context, refused string) (string, error) {
		if refused != "" {
			return "", errors.New("the token has expired")
		}
		return os.Getenv("MESSAGING_TOKEN"), nil
	})
	repeats := 0
	c, stop := start(&fake{refusals: 2})
	defer stop()
	c = c.With(client.WithToken(tokens), client.WithObserver(func(a client.Attempt) {
		if a.Number > 1 {
			repeats++ // a counter of your metrics
		}
	}))
	if _, err := c.Publish(context.Background(), client.Publishing{Payload: "x"}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("repeats:", repeats)
	// Output: repeats: 2
}
