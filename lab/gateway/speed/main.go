// Command speed measures the gateway beside its engine without encryption, each over a folder of
// its own, in one run.
//
//	go run ./lab/gateway/speed [-only REGEXP] [-pairs N] [-size BYTES] [-payload KIND]
//		[-tls] [-upstream] [-folder DIR] [-gateway FILE] [-rclone FILE] [-memory]
//
// Each server is a process on this computer. The client is this process. The servers take turns, in
// reverse order every second round, after a round that warms up. The table has the medians of the
// rounds: the time of an operation, the ratio of speeds to the plain engine's with its quartiles (1
// is as fast, 2 twice as fast), and the processor time that the server took for it, with the ratio
// of that (2 is twice as much). Where a client and other programs share the processors, the
// processor time says more than the time.
//
// With -memory it measures instead how much memory a server takes for connections that wait in the
// middle of a GET or a PUT.
//
// Linux only: the processor time and the memory of a process are in /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	only    *regexp.Regexp
	pairs   int
	size    int64 // bytes of the large object
	payload payload
	folder  string // parent of the servers' folders
	gateway string // the gateway's program; empty means build it
	rclone  string // rclone's program; empty means that it is not measured
	memory  bool
	tls     bool

	upstream bool
}

func main() {
	if os.Getenv(asPlain) != "" {
		exit(servePlain(os.Args[1], os.Getenv(asPlain)))
	}
	only := flag.String("only", "", "measure the operations whose names match")
	var o options
	flag.IntVar(&o.pairs, "pairs", 5, "rounds that are measured")
	flag.Int64Var(&o.size, "size", 1<<30, "bytes of the large object")
	kind := flag.String("payload", string(unsigned), "how content is signed: "+strings.Join(payloads(), ", "))
	flag.StringVar(&o.folder, "folder", "/dev/shm", "where the servers' folders are made")
	flag.StringVar(&o.gateway, "gateway", "", "the gateway's program; it is built if none is stated")
	flag.StringVar(&o.rclone, "rclone", "", "also measure 'serve s3' of this rclone over a crypt remote")
	flag.BoolVar(&o.tls, "tls", false, "serve HTTPS, as for other computers: the engine alone then can't send files from the kernel")
	flag.BoolVar(&o.upstream, "upstream", false, "have both stand in front of another S3: the engine over a folder")
	flag.BoolVar(&o.memory, "memory", false, "measure the memory of connections instead")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		exit(err)
	}
	o.payload = payload(*kind)
	if !slices.Contains(payloads(), *kind) || o.pairs < 1 || o.size < partSize {
		flag.Usage()
		os.Exit(2)
	}
	if o.memory && o.tls {
		exit(errors.New("-memory is without -tls"))
	}
	if o.upstream && o.rclone != "" {
		exit(errors.New("-upstream is without -rclone"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, os.Stdout, o)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	folder, err := os.MkdirTemp(o.folder, "speed-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if o.gateway == "" {
		o.gateway = filepath.Join(folder, "pikokms-gateway")
		if text, err := exec.Command("go", "build", "-o", o.gateway, "piko.sh/pikokms/cmd/pikokms-gateway").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
	}
	if o.memory {
		return reportMemory(ctx, out, o, folder)
	}
	servers, stop, err := startAll(ctx, o, folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	fmt.Fprintf(out, "%d rounds, payload %s, TLS %t, in front of another S3 %t, folders in %s\n\n", o.pairs, o.payload, o.tls, o.upstream, filepath.Clean(o.folder))
	fmt.Fprintln(out, "| | | time | speed | CPU time | CPU |\n|---|---|---:|---:|---:|---:|")
	for _, op := range operations(o.size) {
		if err := op.measure(out, servers, o); err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
	}
	return nil
}

// operation is an operation of S3 that is measured.
type operation struct {
	name string
	// prepare makes what the operation needs. It may be nil.
	prepare func(*client) error
	do      func(*client) error
	// begin is the part of the operation that is not measured. It may be nil.
	begin func(*client) error
	// tidy removes what the operations after this one do not need. It may be nil.
	tidy func(*client) error
}

// sample is one measurement.
type sample struct{ wall, cpu time.Duration }

func (op *operation) measure(out io.Writer, servers []*server, o options) error {
	if !o.only.MatchString(op.name) {
		return nil
	}
	samples := make([][]sample, len(servers))
	order := make([]int, len(servers))
	for i, s := range servers {
		order[i] = i
		if op.prepare == nil {
			continue
		}
		if err := op.prepare(s.client); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for round := range o.pairs + 1 {
		for _, i := range order {
			measured, err := op.once(servers[i])
			if err != nil {
				return fmt.Errorf("%s: %w", servers[i].name, err)
			}
			if round > 0 {
				samples[i] = append(samples[i], measured)
			}
		}
		slices.Reverse(order)
	}
	for i, s := range servers {
		name := op.name
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", name, s.name, compare(samples[0], samples[i]))
		if op.tidy == nil {
			continue
		}
		if err := op.tidy(s.client); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (op *operation) once(s *server) (sample, error) {
	if op.begin != nil {
		if err := op.begin(s.client); err != nil {
			return sample{}, err
		}
	}
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	begin := time.Now()
	if err := op.do(s.client); err != nil {
		return sample{}, err
	}
	wall := time.Since(begin)
	after, err := s.cpu()
	return sample{wall, after - before}, err
}

// compare returns cells of the table: the medians of a server, and of its ratios to the base.
func compare(base, samples []sample) string {
	var wall, cpu, speed, cost []float64
	for i, s := range samples {
		wall, cpu = append(wall, s.wall.Seconds()), append(cpu, s.cpu.Seconds())
		speed = append(speed, base[i].wall.Seconds()/s.wall.Seconds())
		cost = append(cost, s.cpu.Seconds()/base[i].cpu.Seconds())
	}
	return fmt.Sprintf("%.3g s | %.2f (%.2f–%.2f) | %.3g s | %.2f", quantile(wall, 0.5),
		quantile(speed, 0.5), quantile(speed, 0.25), quantile(speed, 0.75), quantile(cpu, 0.5), quantile(cost, 0.5))
}

// quantile returns a quantile of values, between two of them if need be.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}
