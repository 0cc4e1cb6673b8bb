package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
)

// entry is a result in JSON.
type entry struct {
	Name        string  `json:"name"`
	Op          string  `json:"op"`
	Size        int     `json:"size"` // bytes
	Parallelism int     `json:"parallelism"`
	Speed       float64 `json:"mb_per_s"`
	Ratio       float64 `json:"ratio_to_raw"`
	Allocs      int64   `json:"allocs"`
	Bytes       int64   `json:"bytes"`
}

func writeJSON(out io.Writer, results []result) error {
	var entries []entry
	for _, r := range results {
		entries = append(entries, entry{
			r.name, r.op, r.size, r.parallelism, r.speed, r.ratio, int64(math.Round(r.allocs)), int64(math.Round(r.bytes)),
		})
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(entries)
}

// writeMarkdown writes a table for each size. The two directions of a subject follow each other in results.
func writeMarkdown(out io.Writer, o *options, results []result) error {
	var text strings.Builder
	for _, size := range o.sizes {
		rows := slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.size != size })
		if len(rows) > 0 {
			writeTable(&text, o, rows)
		}
	}
	_, err := io.WriteString(out, strings.TrimSuffix(text.String(), "\n"))
	return err
}

func writeTable(text *strings.Builder, o *options, rows []result) {
	size, there, back := rows[0].size, rows[0].op, rows[1].op
	where, base := "in memory", "raw"
	if o.endToEnd {
		where, base = "to a folder", "plain"
	}
	fmt.Fprintf(text, "%s %s, median of %d (quartiles), %s/%s; allocations and memory %s / %s\n\n",
		formatSize(size), where, o.repeats, runtime.GOOS, runtime.GOARCH, there, back)

	cores := slices.ContainsFunc(rows, func(r result) bool { return r.parallelism > 1 })
	perSecond := size <= mostOneFrame
	columns := []string{""}
	if cores {
		columns = append(columns, "cores")
	}
	columns = append(columns, there+" MB/s", "to "+base, back+" MB/s", "to "+base, "allocs", "memory")
	if perSecond {
		columns = append(columns, "objects/s")
	}
	fmt.Fprintf(text, "| %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---:|", len(columns)-1))

	for pair := range slices.Chunk(rows, 2) {
		e, d := pair[0], pair[1]
		cells := []string{e.name}
		if e.note != "" {
			cells[0] += " (" + e.note + ")"
		}
		if cores {
			cells = append(cells, fmt.Sprint(e.parallelism))
		}
		cells = append(cells, fmt.Sprintf("%.0f", e.speed), formatRatio(e), fmt.Sprintf("%.0f", d.speed), formatRatio(d),
			fmt.Sprintf("%.0f / %.0f", e.allocs, d.allocs), formatMemory(e.peak)+" / "+formatMemory(d.peak))
		if perSecond {
			cells = append(cells, fmt.Sprintf("%.0f / %.0f", e.speed*1e6/float64(size), d.speed*1e6/float64(size)))
		}
		fmt.Fprintf(text, "| %s |\n", strings.Join(cells, " | "))
	}
	text.WriteString("\n")
}

func formatRatio(r result) string {
	decimals := 2
	if r.ratio < 0.1 {
		decimals = 3
	}
	return fmt.Sprintf("%.*f (%.*f–%.*f)", decimals, r.ratio, decimals, r.low, decimals, r.top)
}

func formatMemory(n uint64) string {
	if n < 10_000_000 {
		return fmt.Sprintf("%.0f KB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.0f MB", float64(n)/1e6)
}

func formatSize(n int) string {
	for shift, unit := range []string{"bytes", "KiB", "MiB"} {
		if n < 1<<(10*shift+10) || n%(1<<(10*shift+10)) != 0 {
			return fmt.Sprintf("%d %s", n>>(10*shift), unit)
		}
	}
	return fmt.Sprintf("%d GiB", n>>30)
}
