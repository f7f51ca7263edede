package control

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
)

// vault encrypts secrets with AES-256-GCM under a key that is kept in a file, apart from the records.
type vault struct{ aead cipher.AEAD }

const keyBytes = 32

// openVault reads the key, or makes one if it may be new.
func openVault(path string, mayMake bool) (*vault, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !mayMake:
		return nil, fmt.Errorf("%s is gone while the store has secrets encrypted under it: restore the file from a backup", path)
	case errors.Is(err, os.ErrNotExist):
		key := make([]byte, keyBytes)
		_, _ = rand.Read(key) // never fails
		text = []byte(base64.StdEncoding.EncodeToString(key) + "\n")
		if err := writeSecretFile(path, text); err != nil {
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
	return &vault{aead}, nil
}

// bind is what a ciphertext is for. With it as associated data, a secret moved to another job or name does not open.
func bind(job, name string) []byte {
	return []byte("ripstop secret\x00" + entitlement + "\x00" + job + "\x00" + name)
}

// seal encrypts a value. The nonce, which comes first, is random: 96 bits are enough for 2^32 values under a key.
func (v *vault) seal(job, name string, value []byte) []byte {
	nonce := make([]byte, v.aead.NonceSize(), v.aead.NonceSize()+len(value)+v.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return v.aead.Seal(nonce, nonce, value, bind(job, name))
}

// open decrypts what seal made.
func (v *vault) open(job, name string, sealed []byte) ([]byte, error) {
	n := v.aead.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("secret %s of job %s: %w", name, job, broker.ErrCorrupt)
	}
	value, err := v.aead.Open(nil, sealed[:n], sealed[n:], bind(job, name))
	if err != nil {
		return nil, fmt.Errorf("secret %s of job %s does not open with this server's key; set it again: %w", name, job, broker.ErrCorrupt)
	}
	return value, nil
}
