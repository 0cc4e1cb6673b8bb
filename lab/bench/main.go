// Command bench measures pikokms beside raw AES-GCM and other libraries that encrypt. All encrypt
// the same bytes in one run.
//
//	go run ./lab/bench [-json] [-size LIST] [-only REGEXP] [-copies] [-repeats N]
//		[-parallelism LIST] [-end-to-end] [-plot FILE.svg]
//
// The flag -h prints what is measured and how.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

const help = `Usage: bench [flags]

Measures pikokms beside raw AES-256-GCM and other libraries that encrypt, on the same bytes in one run, and prints
Markdown. Keys are local, nothing asks a network.

  raw              the cipher alone: 64 KiB blocks sealed and opened from memory into one buffer, which is the memory that a
                   stream has; one core
  raw-in-place     the cipher alone, each block in its own place in memory; one core
  floor            what a message of one frame can't do without: HKDF-SHA512, AES key schedule, GCM for header and frame
  raw-stream       raw as a stream: each block taken from the source's memory, sealed into one buffer, written
  pikokms          the push streams, NewWriter
  pikokms-pull     the pull streams, NewReader
  pikokms-cached   the push streams with the data-key cache
  pikokms-rsa-4096, pikokms-ecdh-p256, pikokms-hpke
                   the push streams, data keys wrapped by a public key: RSA-OAEP, an ephemeral key on P-256, HPKE with
                   ML-KEM-768 and X25519; age's recipients are of X25519
  the rest         other libraries, each in the fastest way that it offers: minio/sio with EncryptWriter and DecryptWriter
                   under keys that HKDF-SHA256 derives for each object,
                   Tink and age with a writer to encrypt and a reader to decrypt, the others with whole messages in memory

By default source and destination cost as little as Go's interfaces let them: the source is a bytes.Reader, which writes
its memory to a push stream, and which a pull stream of pikokms reads without a copy; the destination counts bytes and discards them. What is
seen is the library. With -copies the source has only Read and the destination copies to memory, as files and connections
do; raw-stream then reads each block, and to encrypt tens of MiB minio/sio's EncryptReader would be 5 % faster. Each of the
two copies costs about as much as a sixth of the cipher.

The base of ratios is raw. In place the cipher was measured to be 5 to 9 % faster on objects larger than the processor's
caches, and as fast on smaller ones; no stream can do that, since its source's memory is not its own to change.

floor and public keys are for sizes up to 64 KiB, pikokms-cached up to 1 MiB, libraries that hold whole messages in memory for up to 256 MiB:
-size 1KiB,64KiB,1MiB,16MiB,64MiB,1GiB shows all that there is to see, and takes 3 GiB of memory, 4 with -copies.

Subjects take turns, in reverse order every second round: each runs once a round, after a round that warms up, so that
whatever else the machine does falls on all alike. Sizes below 64 MiB are repeated within a round for 30 ms. Speeds are
medians, in MB/s of 10^6 bytes. The ratio to raw is the median of the rounds' ratios, with their quartiles behind it; the
base is raw on one core, whatever the parallelism. Raw is always measured and shown when -only matches it. Below the table
stands how pikokms does beside the fastest peer, round by round. Each subject's round trip is compared byte by byte before
the rounds, in which the bytes that it writes are counted.

Allocations are counted over the whole process. Memory in the table is the most that was reachable at once beyond what
was before, as a garbage collector sees it that runs over and over while the subject warms up, and no more than was
allocated for one object. It is without the garbage that a program holds besides; "bytes" in JSON are all that were
allocated for an object.

With -end-to-end an upload and a download are measured, plain through the storage itself, and encrypted through pikokms.New
in front of it, with a source and a destination that copy: to a temporary folder (TMPDIR), where an upload includes the sync
to disk and a download mostly finds the file in the system's cache, and to S3 of LocalStack, which Docker is needed for and
which has the same cores to live on; -only folder leaves it out. There the base is the plain one on as many cores: the
table has ratios of wall times, JSON's "ratio_to_raw" those of speeds.

`

// options are what the flags say.
type options struct {
	json        bool
	sizes       []int
	only        *regexp.Regexp
	copies      bool
	repeats     int
	parallelism []int
	endToEnd    bool
	plot        string
}

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(arguments []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(arguments, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	measure := measureStreams
	if o.endToEnd {
		measure = measureStorages
	}
	results, err := measure(o, stderr)
	if err != nil {
		return err
	}
	if len(results) == 0 {
		return fmt.Errorf("-only %s: no subject of that name for these sizes", o.only)
	}
	if o.plot != "" {
		if err := savePlot(o.plot, o, results); err != nil {
			return fmt.Errorf("plotting: %w", err)
		}
	}
	if o.json {
		return writeJSON(stdout, results)
	}
	return writeMarkdown(stdout, o, results)
}

// parseOptions reads the flags. For -h it writes the help and returns flag.ErrHelp.
func parseOptions(arguments []string, stdout io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // an error is returned, and printed once
	flags.BoolVar(&o.json, "json", false, "print a JSON list instead of Markdown")
	sizes := flags.String("size", "", "plaintext sizes, a `list` such as 1KiB,64KiB,1GiB or bytes (default 64MiB, with -end-to-end 256MiB)")
	only := flags.String("only", "", "measure only subjects whose name matches the `regexp`")
	flags.IntVar(&o.repeats, "repeats", 9, "`rounds`, of which the median counts")
	flags.BoolVar(&o.copies, "copies", false, "have source and destination copy, as files and connections do")
	parallelism := flags.String("parallelism", "1,all", "values of GOMAXPROCS to measure with, a `list`; all is the number of CPUs")
	flags.BoolVar(&o.endToEnd, "end-to-end", false, "measure uploads and downloads instead of streams")
	flags.StringVar(&o.plot, "plot", "", "also plot MB/s to `FILE.svg`: over the size, or bars for a single size")

	err := flags.Parse(arguments)
	if errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stdout)
		if _, err := io.WriteString(stdout, help); err != nil {
			return nil, err
		}
		flags.PrintDefaults()
	}
	if err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.repeats < 1 {
		return nil, fmt.Errorf("-repeats %d: at least 1", o.repeats)
	}
	if o.plot != "" && filepath.Ext(o.plot) != ".svg" {
		return nil, fmt.Errorf("-plot %s: the file's name must end in .svg", o.plot)
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	if *sizes == "" {
		*sizes = "64MiB"
		if o.endToEnd {
			*sizes = "256MiB"
		}
	}
	if o.sizes, err = parseList(*sizes, parseSize); err != nil {
		return nil, fmt.Errorf("-size: %w", err)
	}
	if o.parallelism, err = parseList(*parallelism, parseCores); err != nil {
		return nil, fmt.Errorf("-parallelism: %w", err)
	}
	return o, nil
}

// parseList returns the values in order, each once.
func parseList(list string, parse func(string) (int, error)) ([]int, error) {
	var values []int
	for item := range strings.SplitSeq(list, ",") {
		value, err := parse(item)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	slices.Sort(values)
	return slices.Compact(values), nil
}

// parseSize reads 512, 1KiB, 64MiB or 1GiB.
func parseSize(text string) (int, error) {
	number, unit := text, 1
	for suffix, bytes := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = n, bytes
		}
	}
	n, err := parsePositive(number)
	if err != nil {
		return 0, fmt.Errorf("%q is no size such as 512, 1KiB, 64MiB or 1GiB", text)
	}
	if n > math.MaxInt/2/unit {
		return 0, fmt.Errorf("%s does not fit in memory", text)
	}
	return n * unit, nil
}

func parseCores(text string) (int, error) {
	if text == "all" {
		return runtime.NumCPU(), nil
	}
	return parsePositive(text)
}

func parsePositive(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is no positive number", text)
	}
	return n, nil
}
