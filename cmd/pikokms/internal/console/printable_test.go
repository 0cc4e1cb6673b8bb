package console

import (
	"testing"
)

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"arn:aws:kms:eu-west-1:111122223333:key/mrk-1": "arn:aws:kms:eu-west-1:111122223333:key/mrk-1",
		"münchen": "münchen",
		"":        `""`,
		"a b":     `"a b"`,
		"a=b":     `"a=b"`,
		`"a"`:     `"\"a\""`,
		"a\x00":   `"a\x00"`,
	} {
		if got := Printable(s); got != want {
			t.Errorf("printable(%q) is %s, not %s", s, got, want)
		}
	}
}
