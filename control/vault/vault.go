// Package vault encrypts what the broker must not be able to read, under a key that is kept in a file apart from it. All control processes of
// a cluster have the same file.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/secretfile"
)

// Vault encrypts with AES-256-GCM.
type Vault struct{ aead cipher.AEAD }

const keyBytes = 32

// Open reads the key, or makes one if it may be new.
func Open(path string, mayMake bool) (*Vault, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !mayMake:
		return nil, fmt.Errorf("%s is gone while the store has things encrypted under it: restore the file from a backup", path)
	case errors.Is(err, os.ErrNotExist):
		key := make([]byte, keyBytes)
		_, _ = rand.Read(key) // never fails
		text = []byte(base64.StdEncoding.EncodeToString(key) + "\n")
		if err := secretfile.Write(path, text); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("%s is damaged: it should hold %d bytes in base64; restore it from a backup", path, keyBytes)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Vault{aead}, nil
}

// Seal encrypts a value. use says what it is for: as it is associated data, what is moved to another use does not open. The nonce, which comes
// first, is random: 96 bits are enough for 2^32 values under a key.
func (v *Vault) Seal(use string, value []byte) []byte {
	nonce := make([]byte, v.aead.NonceSize(), v.aead.NonceSize()+len(value)+v.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return v.aead.Seal(nonce, nonce, value, []byte(use))
}

// Open decrypts what Seal made for the same use. It fails with broker.ErrCorrupt.
func (v *Vault) Open(use string, sealed []byte) ([]byte, error) {
	n := v.aead.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("it is too short: %w", broker.ErrCorrupt)
	}
	value, err := v.aead.Open(nil, sealed[:n], sealed[n:], []byte(use))
	if err != nil {
		return nil, fmt.Errorf("it does not open with this server's key: %w", broker.ErrCorrupt)
	}
	return value, nil
}
