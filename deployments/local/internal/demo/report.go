package demo

import (
	"fmt"
	"text/tabwriter"
)

// report prints the summary.
func (d *demo) report() error {
	table := tabwriter.NewWriter(d.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\nTENANT\tHTTP\tAMQP\tREAD\tDIFFERENT\tPAGES\tPUBLISHED/S\tSTORED AND READ/S") //nolint:errcheck // reported by Flush
	for _, s := range d.subjects {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t0\t%d\t%.0f\t%.0f\n", //nolint:errcheck // reported by Flush
			s.name, s.viaHTTP.Load(), s.viaAMQP.Load(), s.read.Load(), s.pages,
			float64(d.corpus.total)/s.publishTook.Seconds(), float64(d.corpus.total)/s.followTook.Seconds())
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the summary: %w", err)
	}
	d.screen.say("all tenants at once, from the first publish to the last message read by a client that follows the cursor")
	return nil
}
