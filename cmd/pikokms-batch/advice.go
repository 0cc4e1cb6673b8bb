package main

import (
	"fmt"
	"net/url"
	"strings"

	"piko.sh/pikokms"
)

// adviseFor adds to the error of an object that is too large the command line that does the job.
func (o *object) adviseFor(job string, err error) error {
	large, ok := err.(*tooLargeError)
	if !ok {
		return err
	}
	return fmt.Errorf("it is too large: %w; run %s", large, o.commandLine(job))
}

// commandLine returns the command line of pikokms that does a job on the object.
func (o *object) commandLine(job string) string {
	f := o.function
	words := []string{"pikokms", job}
	switch job {
	case encrypt:
		words = append(words, "-k", quote(f.key.url))
	case rewrap:
		for _, k := range f.old {
			words = append(words, "-k", quote(k.url))
		}
		words = append(words, "--to", quote(f.key.url))
	case verify:
		for _, k := range append([]*key{f.key}, f.old...) {
			words = append(words, "-k", quote(k.url))
		}
	}
	if f.bound != "" {
		words = append(words, "-c", quote(pikokms.BucketKey+"="+f.bound), "-c", quote(pikokms.ObjectKey+"="+o.Key))
		if job == encrypt {
			words = append(words, "--required", pikokms.BucketKey, "--required", pikokms.ObjectKey)
		}
	}
	if o.pikoV2 {
		words = append(words, "--allow-piko-v2")
	}
	if job != verify {
		words = append(words, "--in-place")
	}
	place := url.URL{Scheme: "s3", Host: o.bucket.name, Path: "/" + o.Key}
	if region := f.client.Options().Region; region != "" {
		place.RawQuery = "region=" + url.QueryEscape(region)
	}
	return strings.Join(append(words, quote(place.String())), " ")
}

// quote quotes a word for a POSIX shell.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
