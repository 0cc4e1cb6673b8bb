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

// writeMarkdown writes a table for each size. In results, the two directions of a subject are next
// to each other.
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
	how, compared := "from memory, output discarded", "to raw"
	switch {
	case o.endToEnd:
		how, compared = "to and from storage", "time to plain"
	case o.copies:
		how = "copied from and to memory"
	}
	fmt.Fprintf(text, "%s %s, median of %d (quartiles), %s/%s; allocations and memory %s / %s\n\n",
		formatSize(size), how, o.repeats, runtime.GOOS, runtime.GOARCH, there, back)

	cores := slices.ContainsFunc(rows, func(r result) bool { return r.parallelism > 1 })
	perSecond := size <= mostOneFrame
	columns := []string{""}
	if cores {
		columns = append(columns, "cores")
	}
	columns = append(columns, there+" MB/s", compared, back+" MB/s", compared, "allocs", "memory")
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
		cells = append(cells, fmt.Sprintf("%.0f", e.speed), comparison(o, e), fmt.Sprintf("%.0f", d.speed), comparison(o, d),
			fmt.Sprintf("%.0f / %.0f", e.allocs, d.allocs), formatMemory(e.peak)+" / "+formatMemory(d.peak))
		if perSecond {
			cells = append(cells, fmt.Sprintf("%.0f / %.0f", e.speed*1e6/float64(size), d.speed*1e6/float64(size)))
		}
		fmt.Fprintf(text, "| %s |\n", strings.Join(cells, " | "))
	}
	text.WriteString("\n")
	writeNearest(text, rows)
}

// writeNearest says, for each direction and number of cores, how pikokms compares to the fastest
// peer, if both were measured.
func writeNearest(text *strings.Builder, rows []result) {
	written := false
	for _, r := range rows {
		if r.name != "pikokms" {
			continue
		}
		var fastest result
		for _, other := range rows {
			if other.peer && other.op == r.op && other.parallelism == r.parallelism && other.speed > fastest.speed {
				fastest = other
			}
		}
		if fastest.name == "" {
			continue
		}
		times := quotients(r.rounds, fastest.rounds)
		verdict := "ahead of every peer"
		if quantile(times, 0.5) <= 1 {
			verdict = "not ahead of every peer"
		}
		fmt.Fprintf(text, "- %s, %s: pikokms is %s; the fastest is %s, of whose speed it has %.3f (%.3f–%.3f)\n",
			r.op, formatCores(r.parallelism), verdict, fastest.name, quantile(times, 0.5), quantile(times, 0.25), quantile(times, 0.75))
		written = true
	}
	if written {
		text.WriteString("\n")
	}
}

func formatCores(n int) string {
	if n == 1 {
		return "1 core"
	}
	return fmt.Sprintf("%d cores", n)
}

// comparison compares speeds in memory, and wall times end to end.
func comparison(o *options, r result) string {
	if o.endToEnd {
		return formatRatio(1/r.ratio, 1/r.top, 1/r.low)
	}
	return formatRatio(r.ratio, r.low, r.top)
}

func formatRatio(median, low, top float64) string {
	decimals := 2
	if median < 0.1 {
		decimals = 3
	}
	return fmt.Sprintf("%.*f (%.*f–%.*f)", decimals, median, decimals, low, decimals, top)
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
