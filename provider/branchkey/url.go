package branchkey

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// scheme is the scheme of the URLs that name branch keys.
const scheme = "branchkey"

// defaultTTL is the TTL of a URL that states none.
const defaultTTL = time.Hour

// ParseURL returns the configuration that a URL stands for, without any call. A table in DynamoDB
// is
//
//	branchkey://TABLE/BRANCH-KEY-ID?key=KEY-ARN
//	branchkey://TABLE/BRANCH-KEY-ID?accounts=ACCOUNT,ACCOUNT…
//
// with the optional parameters
//
//	trusted=KEY-ARN,KEY-ARN…     further KMS keys that may wrap what is read
//	multi-region=true            KMS keys are multi-Region keys, and their replicas are trusted
//	partition=PARTITION          of the accounts, default "aws"
//	region=REGION                of the table and KMS, default that of KEY-ARN
//	profile=NAME                 of the shared AWS configuration files
//	endpoint=URL                 another endpoint of both services: an emulator
//	kms-endpoint=URL             another KMS endpoint: a VPC endpoint
//	table-endpoint=URL           another DynamoDB endpoint: a VPC endpoint
//	grant-tokens=TOKEN,TOKEN…    of grants too new to be known everywhere
//
// A table in a file, whose branch keys local keys wrap, is
//
//	branchkey:///PATH?id=BRANCH-KEY-ID&master=LOCAL-URL      an absolute path
//	branchkey:PATH?id=BRANCH-KEY-ID&master=LOCAL-URL         a path relative to the working directory
//
// where LOCAL-URL is a percent-encoded URL of an AES key (package provider/local), with the
// optional parameter
//
//	trusted-master=LOCAL-URL     a further local key, of another name, that may wrap what is read
//
// Both have the optional parameters
//
//	by=NAME                      the value of the pair NAME of the encryption context is the branch
//	                             key ID; the URL's own ID is then for messages without that pair,
//	                             and can be left out
//	logical-name=NAME            default the name of the table, or of the file without its folder
//	ttl=DURATION                 such as 30m, default 1h
//	entries=NUMBER               of branch keys in the cache, default 1000
//
// A URL that only names a table, for NewStore, has neither an ID nor a by parameter. The error
// holds provider.ErrInvalidKey.
func ParseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	if u.Scheme != scheme {
		return refuse("the scheme is %q, not %q", u.Scheme, scheme)
	}
	parse := parseFileURL
	if u.Host != "" {
		parse = parseTableURL
	}
	c, query, err := parse(u)
	if err != nil {
		return Config{}, err
	}
	if pair := query.Get("by"); pair != "" {
		c.Supplier = pickByPair(pair, c.BranchKeyID)
	}
	c.LogicalName, c.TTL = query.Get("logical-name"), defaultTTL
	if query.Has("ttl") {
		if c.TTL, err = time.ParseDuration(query.Get("ttl")); err != nil || c.TTL <= 0 {
			return refuse("ttl %q is no duration such as 30m or 1h", query.Get("ttl"))
		}
	}
	if query.Has("entries") {
		if c.Entries, err = strconv.Atoi(query.Get("entries")); err != nil || c.Entries <= 0 {
			return refuse("entries %q is no number of branch keys", query.Get("entries"))
		}
	}
	return c, nil
}

var commonParameters = []string{"by", "entries", "logical-name", "ttl"}

func parseTableURL(u *url.URL) (Config, url.Values, error) {
	query, err := provider.URLParameters(u, slices.Concat(commonParameters, []string{"accounts", "endpoint", "grant-tokens", "key", "kms-endpoint",
		"multi-region", "partition", "profile", "region", "table-endpoint", "trusted"})...)
	if err != nil {
		return Config{}, nil, err
	}
	refuse := func(format string, arguments ...any) (Config, url.Values, error) {
		return Config{}, nil, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	switch {
	case query.Has("key") == query.Has("accounts"):
		return refuse("it needs either key=KEY-ARN or accounts=ACCOUNT")
	case query.Has("multi-region") && query.Get("multi-region") != "true" && query.Get("multi-region") != "false":
		return refuse("multi-region %q; known are true, false", query.Get("multi-region"))
	case query.Has("endpoint") && (query.Has("kms-endpoint") || query.Has("table-endpoint")):
		return refuse("endpoint stands for kms-endpoint and table-endpoint")
	}
	region := query.Get("region")
	if region == "" {
		region = arns.Region(query.Get("key"))
	}
	return Config{
		Table: u.Host, TableEndpoint: query.Get("endpoint") + query.Get("table-endpoint"), BranchKeyID: strings.TrimPrefix(u.Path, "/"),
		KMS: awskms.Config{
			KeyID: query.Get("key"), TrustedKeys: arns.List(query.Get("trusted")), MultiRegion: query.Get("multi-region") == "true",
			Accounts: arns.List(query.Get("accounts")), Partition: query.Get("partition"), Region: region, Profile: query.Get("profile"),
			Endpoint: query.Get("endpoint") + query.Get("kms-endpoint"), GrantTokens: arns.List(query.Get("grant-tokens")),
		},
	}, query, nil
}

func parseFileURL(u *url.URL) (Config, url.Values, error) {
	query, err := provider.URLParameters(u, slices.Concat(commonParameters, []string{"id", "master", "trusted-master"})...)
	if err != nil {
		return Config{}, nil, err
	}
	path := u.Path
	if u.Opaque != "" {
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return Config{}, nil, fmt.Errorf("%w: URL %q: %w", provider.ErrInvalidKey, provider.RedactURL(u.String()), err)
		}
	}
	if drive := strings.TrimPrefix(path, "/"); runtime.GOOS == "windows" && filepath.VolumeName(drive) != "" {
		path = drive
	}
	if path == "" || !query.Has("master") {
		return Config{}, nil, fmt.Errorf("%w: URL %q: write branchkey://TABLE/ID?key=KEY-ARN, or branchkey:///PATH?id=ID&master=LOCAL-URL", provider.ErrInvalidKey, provider.RedactURL(u.String()))
	}
	c := Config{File: path, BranchKeyID: query.Get("id")}
	for _, name := range []string{"master", "trusted-master"} {
		if !query.Has(name) {
			continue
		}
		parsed, err := url.Parse(query.Get(name))
		if err != nil {
			return Config{}, nil, fmt.Errorf("%w: URL %q: %s is no URL", provider.ErrInvalidKey, provider.RedactURL(u.String()), name)
		}
		master, err := local.ParseURL(parsed)
		if err != nil {
			return Config{}, nil, fmt.Errorf("URL %q: %s: %w", provider.RedactURL(u.String()), name, err)
		}
		c.Masters = append(c.Masters, master)
	}
	return c, query, nil
}

// pickByPair returns the Supplier of a URL with by=NAME.
func pickByPair(name, fallback string) Supplier {
	return func(_ context.Context, encryptionContext map[string]string) (string, error) {
		id := encryptionContext[name]
		if id == "" && fallback == "" {
			return "", fmt.Errorf("%w: there is no pair %q, whose value is the branch key's ID; state it", provider.ErrKeyNotFound, name)
		}
		return id, nil
	}
}
