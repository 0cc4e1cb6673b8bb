package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"piko.sh/pikokms"
)

// advice is an error with the command line that does what the function can't.
type advice struct {
	err         error
	commandLine string
}

func (a *advice) Error() string { return a.err.Error() + "; run " + a.commandLine }
func (a *advice) Unwrap() error { return a.err }

// adviseFor adds, to the error of an object that is too large, the command line that does the job.
func (o *object) adviseFor(job string, err error) error {
	large, ok := err.(*tooLargeError)
	if !ok {
		return err
	}
	err = fmt.Errorf("it is too large: %w", large)
	if line, ok := o.commandLine(job); ok {
		return &advice{err, line}
	}
	return fmt.Errorf("%w; no command line can name this object", err)
}

// adviseLate adds, to the error of an object whose time ran out, how much was read and the command
// line that does the job. S3 may have been slow for a moment, so it tries the task again.
func (o *object) adviseLate(job string, took time.Duration, err error) error {
	line, ok := o.commandLine(job)
	if !ok || o.source.read < minMeasured {
		return err
	}
	read := float64(o.source.read)
	return &advice{fmt.Errorf("the time of the invocation ran out when %.2f of %.2f GB were read, at %.1f MB/s, which a further attempt may not meet: %w", read/1e9, float64(o.size)/1e9, read/1e6/took.Seconds(), err), line}
}

// commandLine returns the command line of pikokms that does a job on the object, for a POSIX shell,
// on one line. ok is false if no command line does.
func (o *object) commandLine(job string) (line string, ok bool) {
	f := o.function
	words := []string{"pikokms", job}
	add := func(flag string, keys ...*key) {
		for _, k := range keys {
			words = append(words, flag, k.url)
		}
	}
	switch job {
	case encrypt:
		add("-k", f.key)
		add("-k", f.recovery...)
	case rewrap:
		add("-k", f.readable()...)
		add("--to", f.key)
		add("--to", f.recovery...)
	case verify:
		add("-k", f.readable()...)
	}
	if f.bound != "" {
		words = append(words, "-c", pikokms.PairBucket+"="+f.bound, "-c", pikokms.PairObject+"="+o.Key)
		if job == encrypt {
			words = append(words, "--required", pikokms.PairBucket, "--required", pikokms.PairObject)
		}
	}
	if o.pikoV2 {
		words = append(words, "--allow-piko-v2")
	}
	if job != verify {
		words = append(words, "--in-place")
	}
	place, ok := o.place()
	for i, word := range append(words, place) {
		quoted, can := quote(word)
		if ok = ok && can; i > 0 {
			line += " "
		}
		line += quoted
	}
	return line, ok
}

// place returns the URL of the object. ok is false for a key that ends in a slash, which the
// command takes for all objects below it.
func (o *object) place() (place string, ok bool) {
	query := make(url.Values)
	if region := o.function.client.Options().Region; region != "" {
		query.Set("region", region)
	}
	if o.function.requesterPays {
		query.Set("request_payer", "requester")
	}
	u := url.URL{Path: "/" + o.Key, RawQuery: query.Encode()}
	return "s3://" + o.bucket.name + u.EscapedPath() + "?" + u.RawQuery, !strings.HasSuffix(o.Key, "/")
}

// quote quotes a word for a POSIX shell, on one line. ok is false for text that is not UTF-8, since
// reports are, for a zero byte, which no argument can have, and for a line end at the end of a
// word, since a shell strips those from the output of printf.
func quote(word string) (quoted string, ok bool) {
	isControl := func(r rune) bool { return r < ' ' || r == '\x7f' }
	switch {
	case !utf8.ValidString(word) || strings.Contains(word, "\x00"):
		return "", false
	case word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz-") == "":
		return word, true
	case !strings.ContainsFunc(word, isControl):
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'", true
	}
	var b strings.Builder
	for _, c := range []byte(word) {
		if c < ' ' || c == '\x7f' || c == '\\' || c == '%' || c == '\'' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return `"$(printf '` + b.String() + `')"`, !strings.HasSuffix(word, "\n")
}
