package branchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// The defaults of a configuration's fields.
const (
	defaultMaxRetries = 3
	defaultTimeout    = 10 * time.Second
)

// dynamoTable is a table in Amazon DynamoDB, of the form that the libraries of AWS use. It reads
// consistently.
type dynamoTable struct {
	client *dynamodb.Client
	table  string
}

// newDynamoDB returns the table of a configuration. It asks neither DynamoDB nor a source of
// credentials. The error holds provider.ErrInvalidKey.
func newDynamoDB(ctx context.Context, c *Config) (*dynamoTable, error) {
	switch {
	case c.Table == "":
		return nil, fmt.Errorf("%w: the table has no name", provider.ErrInvalidKey)
	case c.KMS.MaxRetries < 0 || c.KMS.Timeout < 0:
		return nil, fmt.Errorf("%w: MaxRetries and Timeout cannot be negative", provider.ErrInvalidKey)
	case c.TableClient != nil && c.TableEndpoint != "":
		return nil, fmt.Errorf("%w: TableEndpoint belongs to the given TableClient; set it there", provider.ErrInvalidKey)
	case c.TableClient != nil:
		return &dynamoTable{checkingAnswers(c.TableClient), c.Table}, nil
	}
	region := cmp.Or(c.KMS.Region, arns.Region(c.KMS.KeyID))
	if c.KMS.Client != nil {
		region = c.KMS.Client.Options().Region
	}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(region),
		config.WithLogger(awskms.Logger),
		config.WithRetryMaxAttempts(1 + cmp.Or(c.KMS.MaxRetries, defaultMaxRetries)),
		// Without it, the AWS SDK does not bound the wait for an answer.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(cmp.Or(c.KMS.Timeout, defaultTimeout))),
	}
	if c.KMS.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(c.KMS.Profile))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: loading the AWS configuration: %w", provider.ErrInvalidKey, err)
	}
	if loaded.Region == "" {
		return nil, fmt.Errorf("%w: no Region is configured; give the table's Region, or set AWS_REGION or the profile's region", provider.ErrInvalidKey)
	}
	client := dynamodb.NewFromConfig(loaded, func(o *dynamodb.Options) {
		o.HTTPClient = counting{o.HTTPClient}
		if c.TableEndpoint != "" {
			o.BaseEndpoint = aws.String(c.TableEndpoint)
		}
	})
	return &dynamoTable{checkingAnswers(client), c.Table}, nil
}

// counting is an HTTP client that counts the requests, retries included.
type counting struct{ dynamodb.HTTPClient }

// Do implements aws.HTTPClient.
func (c counting) Do(request *http.Request) (*http.Response, error) {
	provider.TraceOf(request.Context()).Request()
	return c.HTTPClient.Do(request)
}

// Name implements table.
func (d *dynamoTable) Name() string { return d.table }

// place implements placed.
func (d *dynamoTable) place() string {
	o := d.client.Options()
	return strings.Join([]string{"dynamodb", o.Region, aws.ToString(o.BaseEndpoint), d.table}, "\x00")
}

// now implements clock with the time of DynamoDB's answer to a request about a branch key.
func (d *dynamoTable) now(ctx context.Context, id string) (time.Time, error) {
	out, err := d.client.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &d.table,
		Key: map[string]types.AttributeValue{
			attributeID:   &types.AttributeValueMemberS{Value: id},
			attributeKind: &types.AttributeValueMemberS{Value: kindActive},
		},
	})
	if err != nil {
		return time.Time{}, d.judge(ctx, err)
	}
	now, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !ok {
		return time.Time{}, fmt.Errorf("%w: the answer of DynamoDB has no header Date, by whose time branch keys are disabled and destroyed", provider.ErrProviderUnavailable)
	}
	return now, nil
}

// createWait bounds how long Create waits for a new table.
const createWait = 5 * time.Minute

// Create implements table. A new table is billed by request, and protected against deletion, since
// without its table no message can be opened. Create waits until the table can be used.
func (d *dynamoTable) Create(ctx context.Context) error {
	found, err := d.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &d.table})
	if err == nil {
		return checkSchema(found.Table)
	}
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); !missing {
		return d.judge(ctx, err)
	}
	_, err = d.client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &d.table,
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(attributeID), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(attributeKind), KeyType: types.KeyTypeRange},
		},
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(attributeID), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(attributeKind), AttributeType: types.ScalarAttributeTypeS},
		},
		BillingMode:               types.BillingModePayPerRequest,
		DeletionProtectionEnabled: aws.Bool(true),
	})
	// Another administrator may create it at the same time.
	if _, exists := errors.AsType[*types.ResourceInUseException](err); err != nil && !exists {
		return d.judge(ctx, err)
	}
	waiter := dynamodb.NewTableExistsWaiter(d.client, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = time.Second })
	made, err := waiter.WaitForOutput(ctx, &dynamodb.DescribeTableInput{TableName: &d.table}, createWait)
	_, fromCall := errors.AsType[*smithy.OperationError](err)
	switch timedOut := !fromCall || errors.Is(err, context.DeadlineExceeded); {
	case err != nil && timedOut && ctx.Err() == nil:
		return fmt.Errorf("table %s: %w: it is not ready after %v: %v", d.table, provider.ErrProviderUnavailable, createWait, err)
	case err != nil:
		return d.judge(ctx, err)
	}
	return checkSchema(made.Table)
}

// checkSchema checks that a table finds items by their branch key ID and type.
func checkSchema(table *types.TableDescription) error {
	names := make(map[types.KeyType]string)
	for _, element := range table.KeySchema {
		names[element.KeyType] = aws.ToString(element.AttributeName)
	}
	kinds := make(map[string]types.ScalarAttributeType)
	for _, a := range table.AttributeDefinitions {
		kinds[aws.ToString(a.AttributeName)] = a.AttributeType
	}
	if names[types.KeyTypeHash] != attributeID || names[types.KeyTypeRange] != attributeKind ||
		kinds[attributeID] != types.ScalarAttributeTypeS || kinds[attributeKind] != types.ScalarAttributeTypeS {
		return fmt.Errorf("%w: table %s is no table of branch keys: its partition key must be %q and its sort key %q, both strings", provider.ErrInvalidKey, aws.ToString(table.TableName), attributeID, attributeKind)
	}
	return nil
}

// Get implements table.
func (d *dynamoTable) Get(ctx context.Context, id, kind string) (tableItem, error) {
	out, err := d.client.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &d.table, ConsistentRead: aws.Bool(true),
		Key: map[string]types.AttributeValue{
			attributeID:   &types.AttributeValueMemberS{Value: id},
			attributeKind: &types.AttributeValueMemberS{Value: kind},
		},
	})
	if err != nil {
		return tableItem{}, d.judge(ctx, err)
	}
	if len(out.Item) == 0 {
		return tableItem{}, notFound(d, id, kind)
	}
	return fromDynamoDB(out.Item)
}

// All implements table.
func (d *dynamoTable) All(ctx context.Context, id string) iter.Seq2[tableItem, error] {
	return func(yield func(tableItem, error) bool) {
		pages := dynamodb.NewQueryPaginator(d.client, &dynamodb.QueryInput{
			TableName: &d.table, ConsistentRead: aws.Bool(true),
			KeyConditionExpression:    aws.String("#id = :id"),
			ExpressionAttributeNames:  map[string]string{"#id": attributeID},
			ExpressionAttributeValues: map[string]types.AttributeValue{":id": &types.AttributeValueMemberS{Value: id}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(tableItem{}, d.judge(ctx, err))
				return
			}
			if !yieldItems(page.Items, yield) {
				return
			}
		}
	}
}

// Active implements table.
func (d *dynamoTable) Active(ctx context.Context) iter.Seq2[tableItem, error] {
	return func(yield func(tableItem, error) bool) {
		pages := dynamodb.NewScanPaginator(d.client, &dynamodb.ScanInput{
			TableName: &d.table, ConsistentRead: aws.Bool(true),
			FilterExpression:          aws.String("#type = :active"),
			ExpressionAttributeNames:  map[string]string{"#type": attributeKind},
			ExpressionAttributeValues: map[string]types.AttributeValue{":active": &types.AttributeValueMemberS{Value: kindActive}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(tableItem{}, d.judge(ctx, err))
				return
			}
			if !yieldItems(page.Items, yield) {
				return
			}
		}
	}
}

// yieldItems yields the items of a page, and reports whether more are wanted.
func yieldItems(page []map[string]types.AttributeValue, yield func(tableItem, error) bool) bool {
	for _, attributes := range page {
		if !yield(fromDynamoDB(attributes)) {
			return false
		}
	}
	return true
}

// Write implements table with one transaction.
func (d *dynamoTable) Write(ctx context.Context, writes []tableWrite) error {
	var input dynamodb.TransactWriteItemsInput
	for _, w := range writes {
		put := &types.Put{
			TableName: &d.table, Item: toDynamoDB(w.Item),
			ConditionExpression:      aws.String("attribute_not_exists(#id)"),
			ExpressionAttributeNames: map[string]string{"#id": attributeID},
		}
		if w.Replaces != nil {
			put.ConditionExpression = aws.String("attribute_exists(#id) AND #enc = :old")
			put.ExpressionAttributeNames["#enc"] = attributeEnc
			put.ExpressionAttributeValues = map[string]types.AttributeValue{":old": &types.AttributeValueMemberB{Value: w.Replaces}}
		}
		input.TransactItems = append(input.TransactItems, types.TransactWriteItem{Put: put})
	}
	_, err := d.client.TransactWriteItems(ctx, &input)
	return d.judge(ctx, err)
}

// fromDynamoDB returns the item that DynamoDB's attributes make. The error holds ErrDamaged; the
// item then has its keys alone.
func fromDynamoDB(attributes map[string]types.AttributeValue) (tableItem, error) {
	id, _ := attributes[attributeID].(*types.AttributeValueMemberS)
	kind, _ := attributes[attributeKind].(*types.AttributeValueMemberS)
	if id == nil || kind == nil {
		return tableItem{}, fmt.Errorf("%w: its attributes %q and %q must be strings", ErrDamaged, attributeID, attributeKind)
	}
	item := tableItem{Attributes: make(map[string]string, len(attributes))}
	for name, value := range attributes {
		want := "S"
		switch name {
		case attributeEnc:
			want = "B"
		case attributeHierarchy:
			want = "N"
		}
		_, got, _ := strings.Cut(fmt.Sprintf("%T", value), "AttributeValueMember")
		if got != want {
			keys := tableItem{Attributes: map[string]string{attributeID: id.Value, attributeKind: kind.Value}}
			return keys, damaged(keys, "its attribute %q is of DynamoDB's type %s, and must be of type %s", name, got, want)
		}
		switch v := value.(type) {
		case *types.AttributeValueMemberS:
			item.Attributes[name] = v.Value
		case *types.AttributeValueMemberN:
			item.Attributes[name] = v.Value
		case *types.AttributeValueMemberB:
			item.Enc = v.Value
		}
	}
	return item, nil
}

func toDynamoDB(item tableItem) map[string]types.AttributeValue {
	attributes := map[string]types.AttributeValue{attributeEnc: &types.AttributeValueMemberB{Value: item.Enc}}
	for name, value := range item.Attributes {
		attributes[name] = &types.AttributeValueMemberS{Value: value}
	}
	if version, ok := item.Attributes[attributeHierarchy]; ok {
		attributes[attributeHierarchy] = &types.AttributeValueMemberN{Value: version}
	}
	return attributes
}

var _ table = (*dynamoTable)(nil)
