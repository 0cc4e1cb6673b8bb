package command

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestInspectSteersNoTerminal(t *testing.T) {
	const hostile = "\x1b[31m\n\t\u009b2J\x7f\u202e\U000e0041\"\\ é日"
	r := &report{
		EncryptionContext: map[string]string{hostile: hostile},
		EncryptedDataKeys: []reportKey{{ProviderID: hostile, Key: hostile + "\xff"}},
		PlaintextSize:     new(int64),
		Transformers:      []string{hostile},
	}
	var text, asJSON strings.Builder
	if err := r.print(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.printJSON(&asJSON); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{text.String(), asJSON.String()} {
		if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q has an unprintable character at %d", out, i)
		}
		if !strings.Contains(out, "é日") {
			t.Errorf("%q lost printable characters", out)
		}
	}
	var back report
	if err := json.Unmarshal([]byte(asJSON.String()), &back); err != nil {
		t.Fatal(err)
	}
	if back.EncryptionContext[hostile] != hostile || back.Transformers[0] != hostile {
		t.Errorf("JSON came back as %q", back.EncryptionContext)
	}
}

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
		if got := printable(s); got != want {
			t.Errorf("printable(%q) is %s, not %s", s, got, want)
		}
	}
}
