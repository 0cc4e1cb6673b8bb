package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlaces(t *testing.T) {
	var all keys
	for _, text := range []string{"data", "data/a", "data/a/", "data/{tenant}/", "data/{tenant}/logs/", "data/a/{day}/x", "{bucket}", "{bucket}/{tenant}/"} {
		at, err := parsePlace(text)
		require.NoError(t, err, text)
		all.rules = append(all.rules, rule{place: at})
	}
	all.rules = append(all.rules, rule{})
	for name, want := range map[[2]string]struct {
		place string
		pairs map[string]string
	}{
		{"data", "x"}:         {"data/", nil},
		{"data", "abc"}:       {"data/a", nil},
		{"data", "a/x"}:       {"data/a/", nil},
		{"data", "b/x"}:       {"data/{tenant}/", map[string]string{"tenant": "b"}},
		{"data", "b/"}:        {"data/{tenant}/", map[string]string{"tenant": "b"}},
		{"data", "b/logs/x"}:  {"data/{tenant}/logs/", map[string]string{"tenant": "b"}},
		{"data", "a/logs/y"}:  {"data/{tenant}/logs/", map[string]string{"tenant": "a"}},
		{"data", "a/1/xyz"}:   {"data/a/{day}/x", map[string]string{"day": "1"}},
		{"data", "a/1/y"}:     {"data/a/", nil},
		{"data", "/x"}:        {"data/", nil},
		{"data", "{tenant}/"}: {"data/{tenant}/", map[string]string{"tenant": "{tenant}"}},
		{"other", "x"}:        {"{bucket}/", map[string]string{"bucket": "other"}},
		{"other", "b/x"}:      {"{bucket}/{tenant}/", map[string]string{"bucket": "other", "tenant": "b"}},
		{"", "x"}:             {"", nil},
	} {
		i, m := all.nearest(name[0], name[1])
		require.Equal(t, want.place, all.rules[i].place.String(), name)
		require.Equal(t, want.pairs, m.pairs, name)
	}
	for _, text := range []string{"{", "{}", "data/{a", "data/x{a}/", "data/{a}", "data/{a}x/", "{a}/{a}/", "data/{{a}}/", "data/{aws-crypto-x}/", "data/{piko-object}/"} {
		_, err := parsePlace(text)
		require.Error(t, err, text)
	}
}
