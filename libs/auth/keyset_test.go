package auth_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

// rawKeySet publishes a document as it is and returns its URL.
func rawKeySet(t *testing.T, document string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(document))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// member is a key of a set as JSON, with some members replaced by JSON as it is written here; "" takes one out.
func member(t *testing.T, kid string, key any, change map[string]string) string {
	t.Helper()
	b, err := json.Marshal(jwk(t, kid, key))
	require.NoError(t, err)
	members := map[string]json.RawMessage{}
	require.NoError(t, json.Unmarshal(b, &members))
	for name, value := range change {
		if delete(members, name); value != "" {
			members[name] = json.RawMessage(value)
		}
	}
	b, err = json.Marshal(members)
	require.NoError(t, err)
	return string(b)
}

func quoted(b []byte) string { return `"` + base64.RawURLEncoding.EncodeToString(b) + `"` }

// smallOrder are the points of Ed25519 whose order divides eight, in their canonical form: with one of them as the key, anybody
// makes signatures.
var smallOrder = []string{ //nolint:gochecknoglobals // a constant
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

// A set is written by many hands. A key that can't be read, or is not for us, costs nobody the keys beside it, and never verifies.
func TestMembersOfAKeySet(t *testing.T) {
	k := newKeys(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	weak := weakRSA(t)
	rsaKey := func(change map[string]string) string { return member(t, "tried", k.otherRSA.Public(), change) }
	ecKey := func(change map[string]string) string { return member(t, "tried", k.ec.Public(), change) }
	edKey := func(change map[string]string) string { return member(t, "tried", k.ed.Public(), change) }
	head := map[string]any{"kid": "tried"}
	rs256 := sign(t, jwt.SigningMethodRS256, k.otherRSA, head, claims(nil))
	es256 := sign(t, jwt.SigningMethodES256, k.ec, head, claims(nil))
	eddsa := sign(t, jwt.SigningMethodEdDSA, k.ed, head, claims(nil))
	private := k.otherRSA.D.Bytes()

	tests := map[string]struct {
		member string
		token  string
		want   int
	}{
		"RSA":                          {rsaKey(nil), rs256, 200},
		"P-256":                        {ecKey(nil), es256, 200},
		"Ed25519":                      {edKey(nil), eddsa, 200},
		"kid a number":                 {rsaKey(map[string]string{"kid": "1"}), rs256, 401},
		"kid null":                     {rsaKey(map[string]string{"kid": "null"}), rs256, 401},
		"kid in another case":          {rsaKey(map[string]string{"kid": `"TRIED"`}), rs256, 401},
		"kid with a space":             {rsaKey(map[string]string{"kid": `"tried "`}), rs256, 401},
		"not an object":                {`5`, rs256, 401},
		"a string":                     {`"key"`, rs256, 401},
		"null":                         {`null`, rs256, 401},
		"a list":                       {`[]`, rs256, 401},
		"empty":                        {`{}`, rs256, 401},
		"kty missing":                  {rsaKey(map[string]string{"kty": ""}), rs256, 401},
		"kty unknown":                  {rsaKey(map[string]string{"kty": `"XYZ"`}), rs256, 401},
		"kty a number":                 {rsaKey(map[string]string{"kty": `1`}), rs256, 401},
		"kty of another type":          {rsaKey(map[string]string{"kty": `"EC"`}), rs256, 401},
		"kty in lower case":            {rsaKey(map[string]string{"kty": `"rsa"`}), rs256, 401},
		"n missing":                    {rsaKey(map[string]string{"n": ""}), rs256, 401},
		"e missing":                    {rsaKey(map[string]string{"e": ""}), rs256, 401},
		"n a number":                   {rsaKey(map[string]string{"n": "5"}), rs256, 401},
		"n is not base64url":           {rsaKey(map[string]string{"n": `"!!!!"`}), rs256, 401},
		"n of a megabit":               {rsaKey(map[string]string{"n": quoted([]byte(strings.Repeat("\xff", 1<<17)))}), rs256, 401},
		"n even":                       {rsaKey(map[string]string{"n": quoted(append(k.otherRSA.N.Bytes()[:255:255], 0))}), rs256, 401},
		"n of 1024 bits":               {member(t, "tried", weak.Public(), nil), sign(t, jwt.SigningMethodRS256, weak, head, claims(nil)), 401},
		"e is 0":                       {rsaKey(map[string]string{"e": quoted([]byte{0})}), rs256, 401},
		"e is 1":                       {rsaKey(map[string]string{"e": quoted([]byte{1})}), exponentOne(t, k.otherRSA), 401},
		"e is 2":                       {rsaKey(map[string]string{"e": quoted([]byte{2})}), rs256, 401},
		"e is 2^64+65537":              {rsaKey(map[string]string{"e": quoted([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})}), rs256, 401},
		"use enc":                      {rsaKey(map[string]string{"use": `"enc"`}), rs256, 401},
		"use sig":                      {rsaKey(map[string]string{"use": `"sig"`}), rs256, 200},
		"use unknown":                  {rsaKey(map[string]string{"use": `"attest"`}), rs256, 401},
		"use a list":                   {rsaKey(map[string]string{"use": `["sig"]`}), rs256, 401},
		"key_ops verify":               {rsaKey(map[string]string{"key_ops": `["verify"]`}), rs256, 200},
		"key_ops with one of others":   {rsaKey(map[string]string{"key_ops": `["verify","https://example.org/x"]`}), rs256, 200},
		"key_ops encrypt":              {rsaKey(map[string]string{"key_ops": `["encrypt"]`}), rs256, 401},
		"key_ops sign":                 {rsaKey(map[string]string{"key_ops": `["sign"]`}), rs256, 401},
		"key_ops empty":                {rsaKey(map[string]string{"key_ops": `[]`}), rs256, 401},
		"key_ops a string":             {rsaKey(map[string]string{"key_ops": `"verify"`}), rs256, 401},
		"use sig, key_ops encrypt":     {rsaKey(map[string]string{"use": `"sig"`, "key_ops": `["encrypt"]`}), rs256, 401},
		"alg RS256":                    {rsaKey(map[string]string{"alg": `"RS256"`}), rs256, 200},
		"alg RS512":                    {rsaKey(map[string]string{"alg": `"RS512"`}), rs256, 401},
		"alg PS256":                    {rsaKey(map[string]string{"alg": `"PS256"`}), rs256, 401},
		"alg RSA-OAEP":                 {rsaKey(map[string]string{"alg": `"RSA-OAEP"`}), rs256, 401},
		"alg HS256":                    {rsaKey(map[string]string{"alg": `"HS256"`}), rs256, 401},
		"alg none":                     {rsaKey(map[string]string{"alg": `"none"`}), rs256, 401},
		"alg a number":                 {rsaKey(map[string]string{"alg": `5`}), rs256, 401},
		"alg ES256 of Ed25519":         {edKey(map[string]string{"alg": `"ES256"`}), eddsa, 401},
		"crv missing":                  {ecKey(map[string]string{"crv": ""}), es256, 401},
		"crv P-384, of the key":        {member(t, "tried", p384.Public(), nil), sign(t, jwt.SigningMethodES384, p384, head, claims(nil)), 401},
		"crv P-384, of another":        {ecKey(map[string]string{"crv": `"P-384"`}), es256, 401},
		"crv secp256k1":                {ecKey(map[string]string{"crv": `"secp256k1"`}), es256, 401},
		"crv X25519":                   {edKey(map[string]string{"crv": `"X25519"`, "alg": ""}), eddsa, 401},
		"crv Ed448":                    {edKey(map[string]string{"crv": `"Ed448"`}), eddsa, 401},
		"x missing":                    {ecKey(map[string]string{"x": ""}), es256, 401},
		"y missing":                    {ecKey(map[string]string{"y": ""}), es256, 401},
		"y not on the curve":           {ecKey(map[string]string{"y": quoted(make([]byte, 32))}), es256, 401},
		"the point at infinity":        {ecKey(map[string]string{"x": quoted(make([]byte, 32)), "y": quoted(make([]byte, 32))}), es256, 401},
		"x longer than the curve":      {ecKey(map[string]string{"x": quoted(append(k.ec.Params().P.Bytes(), 5))}), es256, 401},
		"x of Ed25519 too short":       {edKey(map[string]string{"x": quoted(make([]byte, 31))}), eddsa, 401},
		"x of Ed25519 is no point":     {edKey(map[string]string{"x": quoted(append(make([]byte, 31), 2))}), eddsa, 401},
		"x5c that is no certificate":   {rsaKey(map[string]string{"x5c": `["AAAA"]`}), rs256, 401},
		"members of others":            {rsaKey(map[string]string{"x": `5`, "created": `1`}), rs256, 401}, // x is for other types, and a number
		"a member that nobody knows":   {rsaKey(map[string]string{"created": `1`, "exp": `[]`}), rs256, 200},
		"a private key":                {rsaKey(map[string]string{"d": quoted(private)}), rs256, 401},
		"a private key, HS256":         {rsaKey(map[string]string{"d": quoted(private)}), sign(t, jwt.SigningMethodHS256, private, head, claims(nil)), 401},
		"oct":                          {member(t, "tried", []byte(secret), nil), sign(t, jwt.SigningMethodHS256, []byte(secret), head, claims(nil)), 401},
		"oct with alg HS256":           {member(t, "tried", []byte(secret), map[string]string{"alg": `"HS256"`}), sign(t, jwt.SigningMethodHS256, []byte(secret), head, claims(nil)), 401},
		"RSA with k, HS256":            {rsaKey(map[string]string{"k": quoted([]byte(secret))}), sign(t, jwt.SigningMethodHS256, []byte(secret), head, claims(nil)), 401},
		"an empty oct, HS256":          {`{"kty":"oct","kid":"tried","k":""}`, sign(t, jwt.SigningMethodHS256, []byte{}, head, claims(nil)), 401},
		"the modulus, HS256":           {rsaKey(nil), sign(t, jwt.SigningMethodHS256, k.otherRSA.N.Bytes(), head, claims(nil)), 401},
		"Ed25519, claimed to be P-256": {edKey(map[string]string{"kty": `"EC"`}), eddsa, 401},
	}
	for i, point := range smallOrder {
		x, err := hex.DecodeString(point)
		require.NoError(t, err)
		// R is the neutral point and S is 0: it fits a key of small order for one message in eight at least.
		forged := append([]byte{1}, make([]byte, 63)...)
		text := segment(`{"alg":"EdDSA","kid":"tried"}`) + "."
		for n := 0; ; n++ {
			payload, err := json.Marshal(claims(jwt.MapClaims{"n": n}))
			require.NoError(t, err)
			if candidate := text + segment(string(payload)); ed25519.Verify(x, []byte(candidate), forged) {
				text = candidate
				break
			}
		}
		tests[fmt.Sprintf("Ed25519 of small order %d", i)] = struct {
			member, token string
			want          int
		}{edKey(map[string]string{"x": quoted(x)}), text + "." + base64.RawURLEncoding.EncodeToString(forged), 401}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			url := rawKeySet(t, `{"keys":[`+tt.member+`,`+member(t, "good", k.rsa.Public(), nil)+`]}`)
			app := newApp(newVerifier(t, auth.Config{JWKSURL: url}))
			require.Equal(t, tt.want, get(t, app, tt.token))
			require.Equal(t, 200, get(t, app, k.rs256(t, "good")), "the key beside it")
		})
	}
}

// exponentOne makes the signature that everybody can make if the exponent is 1: the padded digest itself.
func exponentOne(t *testing.T, key *rsa.PrivateKey) string {
	t.Helper()
	payload, err := json.Marshal(claims(nil))
	require.NoError(t, err)
	text := segment(`{"alg":"RS256","kid":"tried"}`) + "." + segment(string(payload))
	signature, err := jwt.SigningMethodRS256.Sign(text, key)
	require.NoError(t, err)
	s := new(big.Int).SetBytes(signature)
	padded := s.Exp(s, big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, key.Size()))
	return text + "." + base64.RawURLEncoding.EncodeToString(padded)
}

// Which key a token means.
func TestKeysByTheirID(t *testing.T) {
	k := newKeys(t)
	rsaKey := func(kid string) string { return member(t, kid, k.rsa.Public(), nil) }
	other := func(kid string) string { return member(t, kid, k.otherRSA.Public(), nil) }
	ecKey := func(kid string) string { return member(t, kid, k.ec.Public(), nil) }
	token := func(header string) string {
		payload, err := json.Marshal(claims(nil))
		require.NoError(t, err)
		return handmade(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256"`+header+`}`, string(payload))
	}
	none, named, empty := token(""), token(`,"kid":"a"`), token(`,"kid":""`)
	tests := map[string]struct {
		keys               []string
		none, named, empty int
	}{
		"a single key":                            {[]string{rsaKey("a")}, 200, 200, 200},
		"a single key without an id":              {[]string{rsaKey("")}, 200, 401, 200},
		"a single key of another id":              {[]string{rsaKey("b")}, 200, 401, 200},
		"a single key that does not fit":          {[]string{other("a")}, 401, 401, 401},
		"a single key of another type":            {[]string{ecKey("a")}, 401, 401, 401},
		"beside one that can't be used":           {[]string{`{"kty":"XYZ","kid":"x"}`, rsaKey("a")}, 200, 200, 200},
		"beside one for encryption":               {[]string{member(t, "e", k.otherRSA.Public(), map[string]string{"use": `"enc"`}), rsaKey("a")}, 200, 200, 200},
		"beside one of another type":              {[]string{rsaKey("a"), ecKey("b")}, 401, 200, 401},
		"beside one of the same type":             {[]string{rsaKey("a"), other("b")}, 401, 200, 401},
		"two with the same id, first fits":        {[]string{rsaKey("a"), other("a")}, 401, 200, 401},
		"two with the same id, second fits":       {[]string{other("a"), rsaKey("a")}, 401, 200, 401},
		"two with the same id, of two types":      {[]string{ecKey("a"), rsaKey("a")}, 401, 200, 401},
		"many with the same id, the last fits":    {append(repeat(other("a"), 20), rsaKey("a")), 401, 200, 401},
		"two with the same id, one can't be read": {[]string{`{"kty":"RSA","kid":"a","n":"!","e":"AQAB"}`, rsaKey("a")}, 200, 200, 200},
		"two without an id":                       {[]string{rsaKey(""), other("")}, 401, 401, 401},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			app := newApp(newVerifier(t, auth.Config{JWKSURL: rawKeySet(t, `{"keys":[`+strings.Join(tt.keys, ",")+`]}`)}))
			require.Equal(t, tt.none, get(t, app, none), "no kid")
			require.Equal(t, tt.named, get(t, app, named), "kid a")
			require.Equal(t, tt.empty, get(t, app, empty), "kid empty")
			require.Equal(t, 401, get(t, app, token(`,"kid":"A"`)), "kid in another case")
			require.Equal(t, 401, get(t, app, token(`,"kid":5`)), "kid a number")
		})
	}
}

func repeat(s string, times int) []string {
	list := make([]string, times)
	for i := range list {
		list[i] = s
	}
	return list
}

// An operator finds out why a key is not used, and is not told so every five minutes.
func TestAKeyThatCantBeUsedIsLoggedOnce(t *testing.T) {
	k := newKeys(t)
	var set atomic.Pointer[string]
	publish := func(keys ...string) {
		document := `{"keys":[` + strings.Join(keys, ",") + `]}`
		set.Store(&document)
	}
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = w.Write([]byte(*set.Load()))
	}))
	t.Cleanup(server.Close)
	encryption := member(t, "encryption", k.rsa.Public(), map[string]string{"use": `"enc"`})
	publish(`{"kty":"RSA","kid":5,"n":"secretive"}`, member(t, "good", k.rsa.Public(), nil), encryption)
	v, logs := observed(t, server.URL, zap.DebugLevel)
	app := newApp(v)
	run(t, v)
	for range 5 {
		require.Equal(t, 401, get(t, app, k.rs256(t, "unknown")), "asks for the set again")
	}
	require.EqualValues(t, 6, requests.Load())
	warnings := func() []observer.LoggedEntry {
		return logs.Filter(func(e observer.LoggedEntry) bool { return e.Level >= zapcore.WarnLevel }).All()
	}
	require.Len(t, warnings(), 1)
	require.EqualValues(t, 0, warnings()[0].ContextMap()["index"])
	require.Contains(t, warnings()[0].ContextMap()["error"], "kid")
	require.NotContains(t, fmt.Sprint(warnings()[0].ContextMap()), "secretive")
	require.Equal(t, 1, logs.FilterMessageSnippet("for others").Len(), "no reason for a warning")

	publish(member(t, "good", k.rsa.Public(), nil), `{"kty":"RSA","kid":"no-n"}`)
	require.Equal(t, 401, get(t, app, k.rs256(t, "unknown")))
	require.Len(t, warnings(), 2, "another set, another key")
	require.Equal(t, "no-n", warnings()[1].ContextMap()["kid"])

	publish(`{"kty":"RSA","kid":"alone"}`)
	for range 5 {
		require.Equal(t, 401, get(t, app, k.rs256(t, "unknown")))
	}
	require.Equal(t, 3, logs.FilterMessageSnippet("can't be used").Len(), "of a set that is of no use as well")
	require.Equal(t, 200, get(t, app, k.rs256(t, "good")), "the last good set stays in use")
}

// Where keys have no names, or keep them, a new one is known as soon as one with a new name.
func TestRotationWithoutANewName(t *testing.T) {
	k := newKeys(t)
	for name, kid := range map[string]string{"no kid": "", "the same kid": "a"} {
		t.Run(name, func(t *testing.T) {
			server := newKeyServer(t)
			server.publish(t, jwk(t, kid, k.otherRSA.Public()))
			v := newVerifier(t, auth.Config{JWKSURL: server.URL})
			v.SetPace(time.Hour, 0)
			app := newApp(v)
			run(t, v)
			old := sign(t, jwt.SigningMethodRS256, k.otherRSA, map[string]any{"kid": kid}, claims(nil))
			require.Equal(t, 200, get(t, app, old))

			server.publish(t, jwk(t, kid, k.rsa.Public()))

			require.Equal(t, 200, get(t, app, k.rs256(t, kid)), "the first request with it waits for the refresh")
			require.Equal(t, 401, get(t, app, old))
			// Another type of key, of the same name.
			server.publish(t, jwk(t, kid, k.ec.Public()))
			require.Equal(t, 200, get(t, app, sign(t, jwt.SigningMethodES256, k.ec, map[string]any{"kid": kid}, claims(nil))))
		})
	}
}

// Whatever the issuer's server answers, the last good set stays in use, and a good answer after it counts.
func TestAnswersOfAKeySetThatWorked(t *testing.T) {
	k := newKeys(t)
	good := `{"keys":[` + member(t, "rsa", k.rsa.Public(), nil) + `]}`
	next := `{"keys":[` + member(t, "next", k.rsa.Public(), nil) + `]}`
	write := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	answers := map[string]http.HandlerFunc{
		"10 MB of white space":       write(next + strings.Repeat(" ", 10<<20)),
		"10 MB of keys":              write(`{"keys":[` + strings.Repeat(`{"kty":"XYZ"},`, 750_000) + member(t, "next", k.rsa.Public(), nil) + `]}`),
		"without an end":             func(w http.ResponseWriter, r *http.Request) { endless(w, r) },
		"500":                        status(500, next),
		"503":                        status(503, ""),
		"404":                        status(404, next),
		"204":                        status(204, ""),
		"401":                        status(401, next),
		"html":                       write("<!DOCTYPE html><html>down for maintenance</html>"),
		"nothing":                    write(""),
		"null":                       write("null"),
		"a list":                     write("[" + member(t, "next", k.rsa.Public(), nil) + "]"),
		"a single key":               write(member(t, "next", k.rsa.Public(), nil)),
		"keys is null":               write(`{"keys":null}`),
		"keys is an object":          write(`{"keys":{"next":` + member(t, "next", k.rsa.Public(), nil) + `}}`),
		"an empty set":               write(`{"keys":[]}`),
		"a set without a usable key": write(`{"keys":[{"kty":"oct","k":"AAAA"},5,null]}`),
		"two sets":                   write(next + next),
		"half a set":                 write(next[:len(next)/2]),
		"a redirect to itself":       func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) },
		"a redirect to nowhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"a redirect to a file": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		},
		"a cut connection": func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			var current atomic.Pointer[http.HandlerFunc]
			use := func(h http.HandlerFunc) { current.Store(&h) }
			use(write(good))
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*current.Load())(w, r) }))
			t.Cleanup(server.Close)
			v := newVerifier(t, auth.Config{JWKSURL: server.URL + "/keys"})
			v.SetPace(time.Hour, 0)
			app := newApp(v)
			run(t, v)
			token := k.rs256(t, "rsa")
			require.Equal(t, 200, get(t, app, token))

			use(answer)
			require.Equal(t, 401, get(t, app, k.rs256(t, "next")), "asks for the set")
			require.Equal(t, 200, get(t, app, token))
			require.Equal(t, 200, get(t, app, k.rs256(t, "rsa")), "a token that was not seen before")

			use(write(next))
			require.Equal(t, 200, get(t, app, k.rs256(t, "next")))
		})
	}
}

// endless writes white space until the client has had enough.
func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write([]byte(strings.Repeat(" ", 1<<16))); err != nil {
			return
		}
	}
}

// A redirect within what is trusted is followed, one that gives up TLS is not.
func TestRedirectsOfAKeySet(t *testing.T) {
	k := newKeys(t)
	set := rawKeySet(t, `{"keys":[`+member(t, "rsa", k.rsa.Public(), nil)+`]}`)
	plain := httptest.NewServer(http.RedirectHandler(set, http.StatusTemporaryRedirect))
	t.Cleanup(plain.Close)
	require.Equal(t, 200, get(t, newApp(newVerifier(t, auth.Config{JWKSURL: plain.URL})), k.rs256(t, "rsa")))

	tls := httptest.NewTLSServer(http.RedirectHandler(set, http.StatusTemporaryRedirect))
	t.Cleanup(tls.Close)
	v, err := auth.New(t.Context(), auth.Config{Issuer: issuer, Audience: audience, JWKSURL: tls.URL}, zap.NewNop())
	require.NoError(t, err)
	require.ErrorContains(t, v.RefreshWith(t.Context(), tls.Client()), "redirect from https to http")
	require.Equal(t, 503, get(t, newApp(v), k.rs256(t, "rsa")))
}

// A server that does not answer holds nobody up for longer than a moment, and costs no key.
func TestAKeySetThatIsSlow(t *testing.T) {
	k := newKeys(t)
	slow := make(chan struct{})
	var requests atomic.Int64
	document := `{"keys":[` + member(t, "rsa", k.rsa.Public(), nil) + `]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			_, _ = w.Write([]byte(document[:9]))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-slow:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = w.Write([]byte(document))
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(slow) })
	v, logs := observed(t, server.URL, zap.WarnLevel)
	app := newApp(v)
	run(t, v)
	require.Equal(t, 401, get(t, app, k.rs256(t, "unknown")))
	require.Equal(t, 200, get(t, app, k.rs256(t, "rsa")))
	require.Eventually(t, func() bool { return logs.FilterMessageSnippet("could not be refreshed").Len() == 1 }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, 200, get(t, app, k.rs256(t, "rsa")))
}
