package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// savePlot draws the two directions beside each other, and one row below the other for each
// parallelism. It draws lines over the size, or bars if there is only one size. Every row shows the
// base as it was measured on one core.
func savePlot(file string, o *options, results []result) error {
	var names []string // a subject looks alike in all panels
	for _, r := range results {
		if !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	var panels [][]*plot.Plot
	for _, p := range o.parallelism {
		var row []*plot.Plot
		for _, op := range []string{results[0].op, results[1].op} {
			rows := slices.DeleteFunc(slices.Clone(results), func(r result) bool {
				return r.op != op || r.parallelism != p && r.name != "raw"
			})
			panel, err := newPanel(rows, names)
			if err != nil {
				return err
			}
			panel.Title.Text = op
			if len(o.parallelism) > 1 {
				panel.Title.Text += ", " + formatCores(p)
			}
			row = append(row, panel)
		}
		panels = append(panels, row)
	}
	canvas := vgsvg.New(30*vg.Centimeter, vg.Length(len(panels))*14*vg.Centimeter)
	tiles := draw.Tiles{
		Rows: len(panels), Cols: 2, PadX: 5 * vg.Millimeter, PadY: 5 * vg.Millimeter,
		PadTop: 3 * vg.Millimeter, PadRight: 5 * vg.Millimeter, PadBottom: 3 * vg.Millimeter,
	}
	for i, row := range plot.Align(panels, tiles, draw.New(canvas)) {
		for j, part := range row {
			panels[i][j].Draw(part)
		}
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	return errors.Join(err, f.Close())
}

func newPanel(rows []result, names []string) (*plot.Plot, error) {
	p := plot.New()
	if slices.ContainsFunc(rows, func(r result) bool { return r.size != rows[0].size }) {
		return p, addLines(p, rows, names)
	}
	return p, addBars(p, rows)
}

func addBars(p *plot.Plot, rows []result) error {
	var speeds plotter.Values
	var names []string
	for _, r := range slices.Backward(rows) { // the first comes on top
		speeds = append(speeds, r.speed)
		names = append(names, r.name)
	}
	bars, err := plotter.NewBarChart(speeds, 14)
	if err != nil {
		return err
	}
	bars.Horizontal = true
	bars.Color = plotutil.Color(2)
	bars.LineStyle.Width = 0
	p.Add(bars)
	p.NominalY(names...)
	p.X.Min = 0
	p.X.Tick.Marker = plot.TickerFunc(wholeNumbers)
	p.X.Label.Text = "MB/s at " + formatSize(rows[0].size)
	return nil
}

func wholeNumbers(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if !ticks[i].IsMinor() {
			ticks[i].Label = fmt.Sprintf("%.0f", ticks[i].Value)
		}
	}
	return ticks
}

// addLines draws with logarithmic axes, so that small objects can be told apart.
func addLines(p *plot.Plot, rows []result, names []string) error {
	var sizes plot.ConstantTicks
	points := make(map[string]plotter.XYs)
	for _, r := range rows {
		tick := plot.Tick{Value: float64(r.size), Label: formatSize(r.size)}
		if !slices.Contains(sizes, tick) {
			sizes = append(sizes, tick)
		}
		points[r.name] = append(points[r.name], plotter.XY{X: float64(r.size), Y: r.speed})
	}
	for i, name := range names {
		if points[name] == nil {
			continue
		}
		line, marks, err := plotter.NewLinePoints(points[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		line.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		line.Dashes = plotutil.Dashes(i / len(plotutil.DefaultColors))
		p.Add(line, marks)
		p.Legend.Add(name, line, marks)
	}
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, sizes
	p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign = math.Pi/6, draw.XRight
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Label.Text = "MB/s"
	return nil
}
