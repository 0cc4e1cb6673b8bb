package look

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestInspectSteersNoTerminal(t *testing.T) {
	const hostile = "\x1b[31m\n\t\u009b2J\x7f\u202e\U000e0041\"\\ é日"
	r := &Report{
		EncryptionContext: map[string]string{hostile: hostile},
		EncryptedDataKeys: []reportKey{{ProviderID: hostile, Key: hostile + "\xff"}},
		PlaintextSize:     new(int64),
		Transformers:      []string{hostile},
	}
	var text, asJSON strings.Builder
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.PrintJSON(&asJSON); err != nil {
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
	var back Report
	if err := json.Unmarshal([]byte(asJSON.String()), &back); err != nil {
		t.Fatal(err)
	}
	if back.EncryptionContext[hostile] != hostile || back.Transformers[0] != hostile {
		t.Errorf("JSON came back as %q", back.EncryptionContext)
	}
}
