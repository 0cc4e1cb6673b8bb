package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

// Certificate states what was destroyed. Its JSON form is stable.
type Certificate struct {
	Certificate string             `json:"certificate"` // what it is
	Tool        string             `json:"tool"`
	Issued      time.Time          `json:"issued"` // by this computer's clock
	Table       string             `json:"table"`
	LogicalName string             `json:"logical_name"`
	BranchKey   string             `json:"branch_key"`
	Disabled    time.Time          `json:"disabled"`
	Destroyed   time.Time          `json:"destroyed"`
	Clock       string             `json:"clock"`        // of the two times before
	By          string             `json:"by,omitempty"` // ARN of the caller who wrote the certificate, as AWS knows them
	Items       []string           `json:"items"`        // the types of the items that were destroyed
	Versions    []describedVersion `json:"versions"`
	Proof       *Proof             `json:"proof,omitempty"` // of --prove
}

// Proof lists the objects that can't be read any more.
type Proof struct {
	Places     []string       `json:"places"`
	Objects    []ProvedObject `json:"objects"`    // those of the branch key
	Unreadable int64          `json:"unreadable"` // of them, those that no other key opens
	OtherKeys  int64          `json:"other_keys"` // of them, those that another key opens
	Others     int64          `json:"others"`     // objects that are not under the branch key
	Unread     int64          `json:"unread"`     // objects whose header could not be read
	LeftOut    int64          `json:"left_out"`   // what may hold content and was not looked at
}

// ProvedObject is an object that was encrypted under a version that was destroyed.
type ProvedObject struct {
	Name       string   `json:"name"`
	Size       int64    `json:"size"` // in bytes, as stored
	Unreadable bool     `json:"unreadable"`
	OtherKeys  []string `json:"other_keys,omitempty"` // the keys that its header names besides
}

// providerID is the provider ID of data keys that branch keys wrap.
var providerID = branchkey.KeyService.ProviderIDs[0]

// proving makes a Proof, and writes its objects as they are found.
type proving struct {
	Proof
	key      string          // the branch key's ID, as a look.Report has it
	versions map[string]bool // that were destroyed
}

func newCertificate(store *branchkey.Store, config branchkey.Config, d *branchkey.Description, caller string) *Certificate {
	c := &Certificate{
		Certificate: "destruction of a branch key", Tool: "pikokms " + console.Version(), Issued: time.Now().UTC().Truncate(time.Second),
		Table: config.Table, LogicalName: store.LogicalName(), BranchKey: d.ID,
		Disabled: d.Disabled.UTC(), Destroyed: d.Destroyed.UTC(), Clock: "DynamoDB", By: caller, Items: slices.Sorted(slices.Values(d.Items)),
		Versions: describeKey(d).Versions,
	}
	if config.File != "" {
		c.Table, c.Clock = config.File, "computer"
	}
	return c
}

// write writes the certificate, with a proof if there is a plan. It writes the proof's objects as
// they are found, since there may be millions. isWhole reports whether the certificate was written
// to its end; it can be true with an error, which then says that the proof misses objects.
func (c *Certificate) write(ctx context.Context, w io.Writer, e *work.Each, plan *work.Plan) (isWhole bool, err error) {
	if plan == nil {
		err := encodeJSON(w, c)
		return err == nil, err
	}
	var text bytes.Buffer
	if err := encodeJSON(&text, c); err != nil {
		return false, err
	}
	if _, err := w.Write(append(bytes.TrimSuffix(text.Bytes(), []byte("\n}\n")), ",\n  \"proof\": {\n    \"objects\": ["...)); err != nil {
		return false, err
	}
	p := &proving{
		key:      message.KeyName(header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(c.BranchKey)}),
		versions: make(map[string]bool),
	}
	for _, v := range c.Versions {
		p.versions[v.ID] = true
	}
	for _, at := range plan.Places {
		p.Places = append(p.Places, at.Title(""))
	}
	if err := e.ExamineAll(ctx, plan, func(x *look.Object) error { return p.take(w, x) }); err != nil {
		return false, err
	}
	p.Unread += int64(len(plan.Unlisted))
	p.LeftOut = plan.LeftContent()
	rest, err := p.rest()
	if err != nil {
		return false, err
	}
	if _, err := w.Write(rest); err != nil {
		return false, err
	}
	console.Say(slog.LevelInfo, fmt.Sprintf("%s under it can't be read any more, %s under it by another key alone, %s not under it",
		console.Count(p.Unreadable, "object"), console.Count(p.OtherKeys, "object"), console.Count(p.Others, "object")))
	switch {
	case p.Unread > 0:
		err = errors.New("--prove: " + console.Count(p.Unread, "object or folder") + " could not be read; the certificate counts them")
	case p.LeftOut > 0:
		err = errors.New("--prove: " + plan.LeftAdvice())
	}
	return true, err
}

// rest returns the members of a proof that follow its objects, and the end of the certificate.
func (p *proving) rest() ([]byte, error) {
	members := map[string]any{}
	text, err := json.Marshal(p.Proof)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	delete(members, "objects")
	rest := []byte("\n    ]")
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value, err := json.Marshal(members[name])
		if err != nil {
			return nil, err
		}
		rest = fmt.Appendf(rest, ",\n    %q: %s", name, value)
	}
	return console.EscapeControls(append(rest, "\n  }\n}\n"...)), nil
}

// take counts an object, and writes it if it is one of the branch key.
func (p *proving) take(w io.Writer, x *look.Object) error {
	if x.Kind == "" || x.Report == nil && x.Err != nil {
		p.Unread++
		return nil
	}
	o := ProvedObject{Name: x.Name, Size: x.Size}
	isOfKey := false
	if x.Report != nil {
		for _, k := range x.Report.EncryptedDataKeys {
			if k.ProviderID == providerID && k.Key == p.key && p.versions[k.KeyVersion] {
				isOfKey = true
			} else {
				o.OtherKeys = append(o.OtherKeys, k.ProviderID+" "+k.Name())
			}
		}
	}
	if !isOfKey {
		p.Others++
		return nil
	}
	if o.Unreadable = len(o.OtherKeys) == 0; o.Unreadable {
		p.Unreadable++
	} else {
		p.OtherKeys++
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	begin := ",\n      "
	if p.Unreadable+p.OtherKeys == 1 {
		begin = "\n      "
	}
	_, err = w.Write(console.EscapeControls(append([]byte(begin), text...)))
	return err
}

// callerTimeout bounds the time of asking AWS who the caller is.
const callerTimeout = 10 * time.Second

// callerOf returns the ARN of the caller of AWS, or nothing if the table is in a file.
func callerOf(ctx context.Context, c branchkey.Config) (string, error) {
	if c.File != "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, callerTimeout)
	defer cancel()
	options := []func(*awsconfig.LoadOptions) error{awsconfig.WithRegion(c.KMS.Region), awsconfig.WithLogger(awskms.Logger)}
	if c.KMS.Profile != "" {
		options = append(options, awsconfig.WithSharedConfigProfile(c.KMS.Profile))
	}
	loaded, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return "", err
	}
	client := sts.NewFromConfig(loaded, func(o *sts.Options) {
		if c.TableEndpoint != "" && c.TableEndpoint == c.KMS.Endpoint { // an emulator
			o.BaseEndpoint = aws.String(c.TableEndpoint)
		}
	})
	out, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Arn), nil
}
