package local_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"piko.sh/pikokms/provider/local"
)

func ExampleParseURL() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "dev.key")
	if err := local.Generate(file); err != nil {
		panic(err)
	}

	u := &url.URL{Scheme: local.KeyService.Scheme, Path: filepath.ToSlash(file), RawQuery: "namespace=example&name=dev"}
	c, err := local.ParseURL(u)
	if err != nil {
		panic(err)
	}
	p, err := local.NewProvider(c)
	if err != nil {
		panic(err)
	}
	defer p.Close()
	info, err := p.GetKeyInfo(context.Background(), "")
	if err != nil {
		panic(err)
	}
	fmt.Println(info.KeyID, info.Metadata["namespace"])
	// Output: dev example
}
