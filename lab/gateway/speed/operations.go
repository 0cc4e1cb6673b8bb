package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"

	"golang.org/x/sync/errgroup"
)

const (
	bucket      = "bench"
	partSize    = 8 << 20
	partsAtOnce = 5
	mediumSize  = 16 << 20
	smallSize   = 100 << 10
	atOnce      = 32
	rangeSize   = 1 << 20
)

const large = "/" + bucket + "/large"

func operations(size int64) []operation {
	name := func(doing string) string { return fmt.Sprintf("%s %d MiB", doing, size>>20) }
	putLarge := func(c *client) error { return c.put(large, size) }
	parts := &upload{size: size}
	putMedium := func(c *client) error {
		return forEach(16, 1, func(i int) error { return c.put(medium(i), mediumSize) })
	}
	putSmall := func(c *client) error {
		return forEach(10_000, atOnce, func(i int) error { return c.put(small("many", i), smallSize) })
	}
	ensureSmall := func(c *client) error { // unless an operation before this one has put them
		if list(c, "many", 10_000) == nil {
			return nil
		}
		return putSmall(c)
	}
	return []operation{
		{name: name("put"), do: putLarge},
		{name: name("get"), prepare: putLarge, do: func(c *client) error { return c.get(large, "", size) }},
		{name: "256 ranges of 1 MiB", prepare: putLarge, do: func(c *client) error { return ranges(c, size, 1) }},
		{name: "256 ranges of 1 MiB, 8 at a time", prepare: putLarge, do: func(c *client) error { return ranges(c, size, 8) }},
		{name: name("put") + " in parts of 8 MiB, 5 at a time", do: func(c *client) error {
			if err := parts.send(c); err != nil {
				return err
			}
			return parts.complete(c)
		}},
		{name: name("complete"), begin: parts.send, do: parts.complete, tidy: func(c *client) error { return c.do("DELETE", large, nil, nil) }},
		{name: "put 16 × 16 MiB", do: putMedium},
		{name: "get 16 × 16 MiB", prepare: putMedium, do: func(c *client) error {
			return forEach(16, 1, func(i int) error { return c.get(medium(i), "", mediumSize) })
		}},
		{name: "put 10,000 × 100 KiB, 32 at a time", do: putSmall},
		{name: "get 10,000 × 100 KiB, 32 at a time", prepare: ensureSmall, do: func(c *client) error {
			return forEach(10_000, atOnce, func(i int) error { return c.get(small("many", i), "", smallSize) })
		}},
		{name: "list 10,000", prepare: ensureSmall, do: func(c *client) error { return list(c, "many", 10_000) }},
		{name: "list 1,000 that were put since the last listing", begin: func(c *client) error {
			return forEach(1000, atOnce, func(i int) error { return c.put(small("few", i), 1000) })
		}, do: func(c *client) error { return list(c, "few", 1000) }},
		{name: "list 1,000", do: func(c *client) error { return list(c, "few", 1000) }},
	}
}

func medium(i int) string               { return fmt.Sprintf("/%s/medium/%02d", bucket, i) }
func small(folder string, i int) string { return fmt.Sprintf("/%s/%s/%05d", bucket, folder, i) }

// forEach calls do with the numbers below n, atOnce of them at a time.
func forEach(n, atOnce int, do func(int) error) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// ranges gets random ranges, the same ones in each call.
func ranges(c *client, size int64, atOnce int) error {
	r := rand.New(rand.NewPCG(1, 2))
	offsets := make([]int64, 256)
	for i := range offsets {
		offsets[i] = r.Int64N(size - rangeSize)
	}
	return forEach(len(offsets), atOnce, func(i int) error {
		return c.get(large, fmt.Sprintf("bytes=%d-%d", offsets[i], offsets[i]+rangeSize-1), rangeSize)
	})
}

// list lists a folder page by page.
func list(c *client, folder string, want int) error {
	listed, token := 0, ""
	for {
		var page struct {
			Contents []struct {
				Key  string
				Size int64
			}
			NextContinuationToken string
			IsTruncated           bool
		}
		path := "/" + bucket + "?list-type=2&prefix=" + folder + "%2F"
		if token != "" {
			path += "&continuation-token=" + token
		}
		if err := c.do("GET", path, nil, &page); err != nil {
			return err
		}
		listed, token = listed+len(page.Contents), page.NextContinuationToken
		if !page.IsTruncated {
			break
		}
	}
	if listed != want {
		return fmt.Errorf("the listing has %d objects, want %d", listed, want)
	}
	return nil
}

// upload is an upload in parts.
type upload struct {
	size int64
	id   string
	done completed
}

type completed struct {
	XMLName xml.Name `xml:"CompleteMultipartUpload"`
	Parts   []part   `xml:"Part"`
}

type part struct {
	PartNumber int
	ETag       string
}

// send begins an upload and sends its parts.
func (u *upload) send(c *client) error {
	var begun struct{ UploadId string }
	if err := c.do("POST", large+"?uploads=", nil, &begun); err != nil {
		return err
	}
	n := int((u.size + partSize - 1) / partSize)
	u.id, u.done = begun.UploadId, completed{Parts: make([]part, n)}
	return forEach(n, partsAtOnce, func(i int) error {
		length := min(partSize, u.size-int64(i)*partSize)
		response, err := c.send("PUT", large+"?partNumber="+strconv.Itoa(i+1)+"&uploadId="+u.id, bodyOf(c.payload, length), nil, nil)
		if err == nil {
			u.done.Parts[i] = part{i + 1, response.Header.Get("ETag")}
		}
		return err
	})
}

// complete completes the upload that was sent last.
func (u *upload) complete(c *client) error {
	text, err := xml.Marshal(u.done)
	if err != nil {
		return err
	}
	b := &body{length: int64(len(text)), hash: "UNSIGNED-PAYLOAD", open: func() io.Reader { return bytes.NewReader(text) }}
	var result struct {
		XMLName xml.Name
		ETag    string
	}
	if err := c.do("POST", large+"?uploadId="+u.id, b, &result); err != nil {
		return err
	}
	if result.XMLName.Local != "CompleteMultipartUploadResult" {
		return fmt.Errorf("the upload was not completed: %s", result.XMLName.Local)
	}
	return nil
}
