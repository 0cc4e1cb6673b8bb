// Package message encrypts and decrypts whole AWS Encryption SDK messages as streams.
//
// It stands between an application, or the transformer of the root package, and a provider:
//
//	encrypt   plaintext → Encrypter → one data key of the provider → header → frames
//	decrypt   message → Decrypter → header, bounded → provider, trusted keys only → commitment, header tag → frames
//
// Each direction comes as a pull stream and as a push stream; both make one call of the key service for a message and
// hold one frame in memory, or a few on several cores (Encrypter.Parallelism). What the streams give opens with every official
// AWS Encryption SDK, and the other way round.
package message
