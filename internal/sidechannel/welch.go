package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// moments are the mean and variance of times in nanoseconds, as they come in (Welford's method).
type moments struct{ n, mean, squares float64 }

func (m *moments) add(x float64) {
	m.n++
	d := x - m.mean
	m.mean += d / m.n
	m.squares += d * (x - m.mean)
}

// welch returns Welch's t of two classes: how many standard errors their means are apart.
func welch(a, b []float64, limit float64) float64 {
	var m [2]moments
	for i, times := range [2][]float64{a, b} {
		for _, x := range times {
			if x <= limit {
				m[i].add(x)
			}
		}
	}
	if m[0].n < 2 || m[1].n < 2 {
		return 0
	}
	error2 := m[0].squares/(m[0].n-1)/m[0].n + m[1].squares/(m[1].n-1)/m[1].n
	if error2 == 0 {
		return 0
	}
	return (m[0].mean - m[1].mean) / math.Sqrt(error2)
}

// verdict is the result of comparing the times of two classes.
type verdict struct {
	n          int     // measurements of each class
	median     float64 // of both together, in nanoseconds
	difference float64 // of the medians
	t          float64 // the largest of all croppings
}

// dudect measures an operation on two inputs in random order, and compares the times as dudect does
// (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017): by Welch's t of all
// times, and of those below each of many percentiles, since interrupts make long tails. A |t| over
// 4.5 is taken for a leak, and one over 10 is beyond doubt. Both inputs are given in the same
// memory.
func dudect(n int, inputs [2][]byte, operation func(input []byte)) verdict {
	shared := make([]byte, max(len(inputs[0]), len(inputs[1])))
	for range 20 {
		operation(inputs[0])
		operation(inputs[1])
	}
	times := [2][]float64{make([]float64, 0, n), make([]float64, 0, n)}
	for len(times[0]) < n || len(times[1]) < n {
		class := rand.IntN(2)
		if len(times[class]) == n {
			class = 1 - class
		}
		input := shared[:copy(shared, inputs[class])]
		begin := time.Now()
		operation(input)
		times[class] = append(times[class], float64(time.Since(begin).Nanoseconds()))
	}
	all := slices.Concat(times[0], times[1])
	slices.Sort(all)
	v := verdict{n: n, median: all[len(all)/2], difference: median(times[0]) - median(times[1]), t: welch(times[0], times[1], math.Inf(1))}
	const crops = 100
	for i := range crops {
		part := 1 - math.Pow(0.5, 10*float64(i+1)/crops) // as dudect's percentiles
		limit := all[int(part*float64(len(all)-1))]
		if t := welch(times[0], times[1], limit); math.Abs(t) > math.Abs(v.t) {
			v.t = t
		}
	}
	return v
}

func median(times []float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}
