package pikokms

// StreamTransformer is a stage with the shape of Piko's StreamTransformerPort, of which T is the type of a stage's kind: Piko's
// storage package has a type of its own for it, which is not imported here.
//
//	stage := pikokms.StreamTransformer[storage.TransformerType]{Transformer: pikokms.NewCryptoTransformer(e, d)}
//	err := service.RegisterTransformer(ctx, stage)
type StreamTransformer[T ~string] struct{ Transformer }

// Type returns the stage's kind.
func (s StreamTransformer[T]) Type() T { return T(s.Transformer.Type()) }
