package auth_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

func segment(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// handmade signs a header and a payload as they are, which the library would not.
func handmade(tb testing.TB, method jwt.SigningMethod, key any, header, payload string) string {
	tb.Helper()
	text := segment(header) + "." + segment(payload)
	signature, err := method.Sign(text, key)
	require.NoError(tb, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// withClaims signs good claims, of which some are replaced by JSON as it is written here; "" takes one out.
func withClaims(tb testing.TB, change map[string]string) string {
	tb.Helper()
	raw := map[string]json.RawMessage{}
	for name, claim := range claims(nil) {
		b, err := json.Marshal(claim)
		require.NoError(tb, err)
		raw[name] = b
	}
	var members []string
	for name, text := range change {
		delete(raw, name)
		if text != "" {
			members = append(members, fmt.Sprintf("%q:%s", name, text))
		}
	}
	for name, text := range raw {
		members = append(members, fmt.Sprintf("%q:%s", name, text))
	}
	return handmade(tb, jwt.SigningMethodHS256, []byte(secret), `{"alg":"HS256"}`, "{"+strings.Join(members, ",")+"}")
}

// A time that wraps around makes a token good that is not, or refuses a good one. RFC 7519 section 2: a NumericDate is a JSON
// number, of any size.
func TestTimesOfAnyForm(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	const future, past, notNumber = "future", "past", "not a number"
	digits := strings.Repeat("9", 400)
	after := func(d time.Duration) string {
		return strconv.FormatFloat(float64(time.Now().Add(d).UnixMilli())/1000, 'f', 3, 64)
	}
	forms := map[string]string{
		"1e19": future, "1E+19": future, "1.0e19": future, "10000000000000000000": future,
		"9223372036854775807": future, "9223372036854775808": future, "9.3e18": future, "4611686018427387904": future,
		"9223371974719179007": future, "9223371974719179008": future, // where time.Unix wraps
		"253402300799": future, "253402300800": future, "1e300": future, "1e400": future, "1e999999999": future, digits: future,
		after(time.Hour): future, after(10*time.Hour) + "e0": future, "99999999999.5": future,
		"-1e19": past, "-9223372036854775808": past, "-9223372036854775809": past, "-1e400": past, "-" + digits: past,
		"-1": past, "-0": past, "0": past, "0.5": past, "-0.5": past, "1e-400": past, "1": past, "1.7e9": past, "1700000000000e-3": past,
		after(-time.Hour): past,
		`"1e19"`:          notNumber, `"4102444800"`: notNumber, `""`: notNumber, `"NaN"`: notNumber, `"Infinity"`: notNumber,
		"null": notNumber, "true": notNumber, "[4102444800]": notNumber, `{"$numberLong":"4102444800"}`: notNumber,
	}
	reasons := map[string]map[string]string{ // by claim and form; "" is a good token
		"exp": {future: "", past: "the token has expired", notNumber: "the claim exp is not a number"},
		"nbf": {future: "the token is not valid yet", past: "", notNumber: "the claim nbf is not a number"},
		"iat": {future: "the token was issued in the future", past: "", notNumber: "the claim iat is not a number"},
	}
	for form, kind := range forms {
		for claim, reason := range reasons {
			got := do(t, app, http.MethodGet, "/read", withClaims(t, map[string]string{claim: form}))
			name := claim + " " + form[:min(len(form), 40)]
			if reason[kind] == "" {
				require.Equal(t, 200, got.status, name)
				continue
			}
			require.Equal(t, 401, got.status, name)
			require.Equal(t, reason[kind], got.problem(t).Detail, name)
		}
	}
}

// What is not a JSON number is not JSON.
func TestTimesThatAreNotJSON(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	for _, form := range []string{"NaN", "Infinity", "-Infinity", "1e", "0x7fffffff", "01", "+1", "1_000", ".5", "5.", "'1'"} {
		require.Equal(t, 401, do(t, app, http.MethodGet, "/read", withClaims(t, map[string]string{"nbf": form})).status, form)
	}
}

// A fraction that is cut off would end a token up to a second early. The leeway is thirty seconds.
func TestFractionsOfASecondCount(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	require.Equal(t, 401, do(t, app, http.MethodGet, "/read", "").status) // starts fasthttp's clock, which never stops, outside of the bubble
	synctest.Test(t, func(t *testing.T) {
		token := withClaims(t, map[string]string{"exp": strconv.FormatInt(time.Now().Unix()-30, 10) + ".999"})
		time.Sleep(998 * time.Millisecond) //nolint:forbidigo // of the clock of the bubble, which began with a second
		require.Equal(t, 200, do(t, app, http.MethodGet, "/read", token).status)
		time.Sleep(time.Millisecond) //nolint:forbidigo // likewise
		require.Equal(t, 401, do(t, app, http.MethodGet, "/read", token).status)
	})
}

// The bearer is told which claim its issuer has to put right, and nobody is told what the token says.
func TestClaimsOfAWrongTypeAreNamed(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	wrong := map[string][]string{
		"iss":       {"5", "null", "[]", `["` + issuer + `"]`, "{}", "true"},
		"sub":       {"5", "null", `["someone"]`, "{}", "false"},
		"aud":       {"5", "null", "true", "{}", `[5]`, `["messaging",null]`, `[["messaging"]]`, `{"0":"messaging"}`},
		"exp":       {`"4102444800"`, "null", "{}"},
		"nbf":       {`"0"`, "null", "[]"},
		"iat":       {`"0"`, "null", "true"},
		"scope":     {"5", "null", "true", "{}", `{"messages:read":true}`, "[5]", `["messages:read",null]`, `[["messages:read"]]`},
		"tenant_id": {"5", "null", `""`, "[]", `["` + tenantA + `"]`, `"{` + tenantA + `}"`, `"urn:uuid:` + tenantA + `"`, `"secretive"`},
	}
	for claim, forms := range wrong {
		for _, form := range forms {
			got := do(t, app, http.MethodGet, "/read", withClaims(t, map[string]string{claim: form}))
			name := claim + " " + form
			require.Equal(t, 401, got.status, name)
			p := got.problem(t)
			require.Equal(t, "invalid_token", p.Code, name)
			require.Contains(t, p.Detail, "the claim "+claim+" is ", name)
			require.Len(t, p.Errors, 1, name)
			require.Equal(t, claim, p.Errors[0].Field, name)
			require.Contains(t, p.Errors[0].Detail, "must be ", name)
			require.Contains(t, got.header.Get("WWW-Authenticate"), "the claim "+claim+" is ", name)
			require.NotContains(t, string(got.body)+got.header.Get("WWW-Authenticate"), "secretive", name)
			require.NotContains(t, string(got.body), tenantA, name)
		}
	}
}

// What a claim may be, beside what it usually is.
func TestFormsOfClaims(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	tests := map[string]struct {
		change map[string]string
		want   int
	}{
		"aud among others":               {map[string]string{"aud": `["billing","messaging","x"]`}, 200},
		"aud alone in a list":            {map[string]string{"aud": `["messaging"]`}, 200},
		"aud of others":                  {map[string]string{"aud": `["billing","Messaging","messaging "]`}, 401},
		"aud as a part of another":       {map[string]string{"aud": `"messaging-test"`}, 401},
		"aud space-delimited":            {map[string]string{"aud": `"billing messaging"`}, 401},
		"aud empty":                      {map[string]string{"aud": `""`}, 401},
		"aud an empty list":              {map[string]string{"aud": `[]`}, 401},
		"iss empty":                      {map[string]string{"iss": `""`}, 401},
		"iss with a slash behind it":     {map[string]string{"iss": `"` + issuer + `/"`}, 401},
		"iss in capitals":                {map[string]string{"iss": `"` + strings.ToUpper(issuer) + `"`}, 401},
		"sub empty":                      {map[string]string{"sub": `""`}, 200},
		"sub missing":                    {map[string]string{"sub": ""}, 200},
		"scope a list":                   {map[string]string{"scope": `["messages:read"]`}, 200},
		"scope in one item of a list":    {map[string]string{"scope": `["messages:write messages:read"]`}, 403},
		"other claims of any type":       {map[string]string{"jti": "5", "azp": "null", "n": "1e999", "x": `{"a":{"a":[1]}}`}, 200},
		"claims in other cases":          {map[string]string{"EXP": "1", "Nbf": "1e19", "TENANT_ID": "5"}, 200},
		"tenant_id in capitals":          {map[string]string{"tenant_id": `"` + strings.ToUpper(tenantA) + `"`}, 200},
		"tenant_id with escapes":         {map[string]string{"tenant_id": `"\u0030` + tenantA[1:] + `"`}, 200},
		"exp missing":                    {map[string]string{"exp": ""}, 401},
		"iat and nbf missing":            {map[string]string{"iat": "", "nbf": ""}, 200},
		"a claim with an escaped name":   {map[string]string{`ex\u0070`: "1", "exp": ""}, 401},
		"a name that escapes to another": {map[string]string{"exp\x00": "1"}, 401}, // not JSON
	}
	for name, tt := range tests {
		got := do(t, app, http.MethodGet, "/read", withClaims(t, tt.change))
		require.Equal(t, tt.want, got.status, name+": "+string(got.body))
		if tt.want == 200 {
			require.Equal(t, tenantA, string(got.body), name)
		}
	}
}

// Two programs that read one token differently are how a gateway is got past.
func TestClaimsAndParametersOccurOnce(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	good := withClaims(t, nil)
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1])
	require.NoError(t, err)
	payload := string(b)
	for name, tt := range map[string]struct{ header, payload string }{
		"tenant_id":            {`{"alg":"HS256"}`, `{"tenant_id":"` + tenantB + `",` + payload[1:]},
		"the same value":       {`{"alg":"HS256"}`, `{"tenant_id":"` + tenantA + `",` + payload[1:]},
		"exp":                  {`{"alg":"HS256"}`, payload[:len(payload)-1] + `,"exp":4102444800}`},
		"one with an escape":   {`{"alg":"HS256"}`, `{"sc\u006fpe":"tenants:admin",` + payload[1:]},
		"a claim of others":    {`{"alg":"HS256"}`, `{"x":1,"x":2,` + payload[1:]},
		"alg in the header":    {`{"alg":"none","alg":"HS256"}`, payload},
		"kid in the header":    {`{"alg":"HS256","kid":"a","kid":"b"}`, payload},
		"a parameter unknown ": {`{"alg":"HS256","x":"a","x":"b"}`, payload},
	} {
		got := do(t, app, http.MethodGet, "/read", handmade(t, jwt.SigningMethodHS256, []byte(secret), tt.header, tt.payload))
		require.Equal(t, 401, got.status, name)
		require.Equal(t, "the token has a claim or a header parameter twice", got.problem(t).Detail, name)
	}
	inside := handmade(t, jwt.SigningMethodHS256, []byte(secret), `{"alg":"HS256"}`, `{"x":{"y":1,"y":2},`+payload[1:])
	require.Equal(t, 200, do(t, app, http.MethodGet, "/read", inside).status, "what is inside a claim of others is theirs")
}

func TestHeaderParameters(t *testing.T) {
	k := newKeys(t)
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	good, err := json.Marshal(claims(nil))
	require.NoError(t, err)
	nested := sign(t, jwt.SigningMethodRS256, k.rsa, nil, claims(nil))
	const unsupported, malformed = "of the token has a value that is not supported", "malformed"
	tests := map[string]struct {
		header, payload, reason string
	}{
		"as ever":                     {`{"alg":"HS256","typ":"JWT"}`, string(good), ""},
		"typ in lower case":           {`{"alg":"HS256","typ":"jwt"}`, string(good), ""},
		"typ as a media type":         {`{"alg":"HS256","typ":"application/jwt"}`, string(good), ""},
		"typ of access tokens":        {`{"alg":"HS256","typ":"at+jwt"}`, string(good), ""},
		"typ of them, media type":     {`{"alg":"HS256","typ":"Application/AT+JWT"}`, string(good), ""},
		"typ of logout tokens":        {`{"alg":"HS256","typ":"logout+jwt"}`, string(good), "typ " + unsupported},
		"typ of proofs of possession": {`{"alg":"HS256","typ":"dpop+jwt"}`, string(good), "typ " + unsupported},
		"typ of another kind":         {`{"alg":"HS256","typ":"JOSE+JSON"}`, string(good), "typ " + unsupported},
		"typ empty":                   {`{"alg":"HS256","typ":""}`, string(good), "typ " + unsupported},
		"typ null":                    {`{"alg":"HS256","typ":null}`, string(good), "typ " + unsupported},
		"cty of claims":               {`{"alg":"HS256","cty":"json"}`, string(good), ""},
		"cty JWT":                     {`{"alg":"HS256","cty":"JWT"}`, string(good), "cty " + unsupported},
		"cty JWT, nested":             {`{"alg":"HS256","cty":"jwt"}`, nested, "cty " + unsupported},
		"nested without cty":          {`{"alg":"HS256"}`, nested, malformed},
		"nested as a string":          {`{"alg":"HS256"}`, `"` + nested + `"`, malformed},
		"cty a number":                {`{"alg":"HS256","cty":5}`, string(good), "cty " + unsupported},
		"crit":                        {`{"alg":"HS256","crit":["exp"],"exp":1}`, string(good), "crit " + unsupported},
		"crit empty":                  {`{"alg":"HS256","crit":[]}`, string(good), "crit " + unsupported},
		"crit null":                   {`{"alg":"HS256","crit":null}`, string(good), "crit " + unsupported},
		"crit b64":                    {`{"alg":"HS256","crit":["b64"],"b64":true}`, string(good), "crit " + unsupported},
		"b64 false":                   {`{"alg":"HS256","b64":false}`, string(good), "b64 " + unsupported},
		"b64 true":                    {`{"alg":"HS256","b64":true}`, string(good), ""},
		"b64 a word":                  {`{"alg":"HS256","b64":"true"}`, string(good), "b64 " + unsupported},
		"zip":                         {`{"alg":"HS256","zip":"DEF"}`, string(good), "zip " + unsupported},
		"kid a number":                {`{"alg":"HS256","kid":1}`, string(good), "kid " + unsupported},
		"kid null":                    {`{"alg":"HS256","kid":null}`, string(good), "kid " + unsupported},
		"kid a list":                  {`{"alg":"HS256","kid":["a"]}`, string(good), "kid " + unsupported},
		"kid of a path":               {`{"alg":"HS256","kid":"../../../dev/null"}`, string(good), ""}, // one secret: not looked at
		"jwk, jku, x5u, x5c":          {`{"alg":"HS256","jwk":{"kty":"oct","k":""},"jku":"http://x/","x5u":"http://x/","x5c":["x"]}`, string(good), ""},
		"unknown":                     {`{"alg":"HS256","x":{"a":1e999}}`, string(good), malformed}, // the library's parser
		"alg in another case":         {`{"alg":"hs256"}`, string(good), malformed},
		"ALG":                         {`{"ALG":"HS256"}`, string(good), malformed},
		"alg missing":                 {`{"typ":"JWT"}`, string(good), malformed},
		"alg null":                    {`{"alg":null}`, string(good), malformed},
		"alg a list":                  {`{"alg":["HS256"]}`, string(good), malformed},
		"alg with a space":            {`{"alg":"HS256 "}`, string(good), malformed},
		"a list":                      {`["HS256"]`, string(good), malformed},
		"null":                        {`null`, string(good), malformed},
		"empty":                       {``, string(good), malformed},
		"two values":                  {`{"alg":"HS256"}{}`, string(good), malformed},
		"white space around it":       {` {"alg":"HS256"} `, ` ` + string(good) + "\n", ""},
		"not UTF-8":                   {"{\"alg\":\"HS256\",\"x\":\"\xff\"}", string(good), malformed},
		"claims that are not UTF-8":   {`{"alg":"HS256"}`, "{\"x\":\"\xff\"," + string(good[1:]), malformed},
		"a byte order mark":           {`{"alg":"HS256"}`, "\ufeff" + string(good), malformed},
		"JWE":                         {`{"alg":"dir","enc":"A256GCM"}`, string(good), malformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := do(t, app, http.MethodGet, "/read", handmade(t, jwt.SigningMethodHS256, []byte(secret), tt.header, tt.payload))
			if tt.reason == "" {
				require.Equal(t, 200, got.status, string(got.body))
				return
			}
			require.Equal(t, 401, got.status, string(got.body))
			require.Contains(t, got.problem(t).Detail, tt.reason)
			require.NotContains(t, got.header.Get("WWW-Authenticate")[len("Bearer error=\"invalid_token\", error_description=\""):], "\"x")
		})
	}
}

// A token that can be written in several ways can be told apart from itself, which a list of revoked ones would not notice.
func TestATokenIsWrittenInOneWay(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "rsa", k.rsa.Public()), jwk(t, "ec", k.ec.Public()), jwk(t, "ed", k.ed.Public()))
	verifiers := map[string]*auth.Verifier{
		"secret":  newVerifier(t, auth.Config{Secret: secret}),
		"key set": newVerifier(t, auth.Config{JWKSURL: server.URL}),
	}
	tokens := map[string]struct{ verifier, token string }{
		"HS256": {"secret", hs256(t, nil)}, // 43 characters with two unused bits
		"ES256": {"key set", sign(t, jwt.SigningMethodES256, k.ec, map[string]any{"kid": "ec"}, claims(nil))},
		"EdDSA": {"key set", sign(t, jwt.SigningMethodEdDSA, k.ed, map[string]any{"kid": "ed"}, claims(nil))},
		"RS256": {"key set", k.rs256(t, "rsa")},
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for name, tt := range tokens {
		t.Run(name, func(t *testing.T) {
			app := newApp(verifiers[tt.verifier])
			require.Equal(t, 200, do(t, app, http.MethodGet, "/read", tt.token).status)
			parts := strings.Split(tt.token, ".")
			for i, part := range parts {
				unused := map[int]int{0: 0, 2: 4, 3: 2}[len(part)%4] // bits
				last := strings.IndexByte(alphabet, part[len(part)-1])
				require.Zero(t, last&(1<<unused-1))
				for bits := 1; bits < 1<<unused; bits++ {
					other := strings.Clone(part[:len(part)-1]) + alphabet[last|bits:][:1]
					require.Equal(t, 401, get(t, app, replaced(parts, i, other)), "segment %d, bits %b", i, bits)
				}
				for _, other := range []string{
					part + "=", part + "==", part + "A", part + "%3D", part + ".", "." + part, part[:len(part)-1], "",
					part[:9] + " " + part[9:], part[:9] + "\t" + part[9:], part[:9] + "\\n" + part[9:], part[:9] + "+" + part[10:], part[:9] + "/" + part[10:], part[:9] + "ä" + part[9:],
				} {
					require.Equal(t, 401, get(t, app, replaced(parts, i, other)), "segment %d: %q", i, other)
				}
			}
		})
	}
}

func replaced(parts []string, i int, part string) string {
	all := append([]string{}, parts...)
	all[i] = part
	return strings.Join(all, ".")
}

// Signatures that no key has made, in the forms that have passed elsewhere (CVE-2022-21449 for zeros).
func TestSignaturesOfAWrongForm(t *testing.T) {
	k := newKeys(t)
	apps := map[string]*fiber.App{}
	tokens := map[string]string{}
	for name, key := range map[string]struct {
		public any
		method jwt.SigningMethod
		key    any
	}{
		"RS256": {k.rsa.Public(), jwt.SigningMethodRS256, k.rsa},
		"ES256": {k.ec.Public(), jwt.SigningMethodES256, k.ec},
		"EdDSA": {k.ed.Public(), jwt.SigningMethodEdDSA, k.ed},
	} {
		apps[name] = newApp(newVerifier(t, auth.Config{PublicKey: publicPEM(t, key.public)}))
		tokens[name] = sign(t, key.method, key.key, nil, claims(nil))
	}
	apps["HS256"], tokens["HS256"] = newApp(newVerifier(t, auth.Config{Secret: secret})), hs256(t, nil)
	order := k.ec.Params().N.Bytes()
	digest := jwt.SigningMethodES256.Hash.New()
	_, err := digest.Write([]byte(tokens["ES256"][:strings.LastIndexByte(tokens["ES256"], '.')]))
	require.NoError(t, err)
	der, err := ecdsa.SignASN1(nil, k.ec, digest.Sum(nil))
	require.NoError(t, err)
	for name, app := range apps {
		token := tokens[name]
		require.Equal(t, 200, get(t, app, token), name)
		dot := strings.LastIndexByte(token, '.')
		signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
		require.NoError(t, err)
		half := len(signature) / 2
		zeros := make([]byte, len(signature))
		forms := map[string][]byte{
			"zeros":              zeros,
			"first half zero":    append(zeros[:half:half], signature[half:]...),
			"second half zero":   append(signature[:half:half], zeros[half:]...),
			"a byte more":        append(slices.Clip(signature), 0),
			"a zero before it":   append([]byte{0}, signature...),
			"a byte less":        signature[:len(signature)-1],
			"without its first":  signature[1:],
			"twice":              append(slices.Clip(signature), signature...),
			"of one byte":        {0},
			"halves exchanged":   append(signature[half:len(signature):len(signature)], signature[:half]...),
			"order of the curve": append(slices.Clip(order), order...),
			"ASN.1":              der,
			"in ones":            []byte(strings.Repeat("\xff", len(signature))),
		}
		for form, forged := range forms {
			require.Equal(t, 401, get(t, app, token[:dot+1]+base64.RawURLEncoding.EncodeToString(forged)), name+" "+form)
		}
	}
}

// RFC 9864 has given EdDSA with an Ed25519 key the name Ed25519; issuers write either.
func TestEd25519IsEdDSA(t *testing.T) {
	k := newKeys(t)
	payload, err := json.Marshal(claims(nil))
	require.NoError(t, err)
	token := func(alg string) string {
		return handmade(t, jwt.SigningMethodEdDSA, k.ed, `{"alg":"`+alg+`","kid":"ed"}`, string(payload))
	}
	x := base64.RawURLEncoding.EncodeToString(k.ed[ed25519.SeedSize:])
	apps := map[string]*fiber.App{"PEM": newApp(newVerifier(t, auth.Config{PublicKey: publicPEM(t, k.ed.Public())}))}
	for _, alg := range []string{"", `,"alg":"EdDSA"`, `,"alg":"Ed25519"`} {
		server := rawKeySet(t, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"`+x+`"`+alg+`}]}`)
		apps["key set"+alg] = newApp(newVerifier(t, auth.Config{JWKSURL: server}))
	}
	for name, app := range apps {
		for alg, want := range map[string]int{"EdDSA": 200, "Ed25519": 200, "ed25519": 401, "Ed448": 401, "ES256": 401} {
			require.Equal(t, want, get(t, app, token(alg)), name+": "+alg)
		}
	}
	p := newApp(newVerifier(t, auth.Config{PublicKey: publicPEM(t, k.rsa.Public())}))
	require.Equal(t, 401, get(t, p, token("Ed25519")), "of another key")
}

// The header Authorization, and what stands beside it (RFC 6750).
func TestTheHeaderAuthorization(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	token := hs256(t, nil)
	headers := func(values ...string) http.Header { return http.Header{"Authorization": values} }
	tests := map[string]struct {
		path   string
		header http.Header
		want   int
		code   string
	}{
		"as ever":                    {"/read", headers("Bearer " + token), 200, ""},
		"lower case":                 {"/read", headers("bearer " + token), 200, ""},
		"upper case":                 {"/read", headers("BEARER " + token), 200, ""},
		"more spaces":                {"/read", headers("Bearer    " + token), 200, ""},
		"spaces around it":           {"/read", headers("  Bearer " + token + "  "), 200, ""},
		"a tab":                      {"/read", headers("Bearer\t" + token), 401, "invalid_token"},
		"a space and a tab":          {"/read", headers("Bearer \t" + token), 401, "invalid_token"},
		"a no-break space":           {"/read", headers("Bearer \u00a0" + token), 401, "invalid_token"},
		"no space":                   {"/read", headers("Bearer" + token), 401, "missing_token"},
		"only the scheme":            {"/read", headers("Bearer"), 401, "missing_token"},
		"only the scheme, a space":   {"/read", headers("Bearer "), 401, "missing_token"},
		"empty":                      {"/read", headers(""), 401, "missing_token"},
		"only the token":             {"/read", headers(token), 401, "missing_token"},
		"another scheme":             {"/read", headers("Basic " + token), 401, "missing_token"},
		"another scheme before it":   {"/read", headers("Basic Bearer " + token), 401, "missing_token"},
		"two tokens":                 {"/read", headers("Bearer " + token + " " + token), 401, "invalid_token"},
		"a list":                     {"/read", headers("Bearer " + token + ", Bearer " + token), 401, "invalid_token"},
		"in quotes":                  {"/read", headers(`Bearer "` + token + `"`), 401, "invalid_token"},
		"twice":                      {"/read", headers("Bearer "+token, "Bearer "+token), 400, "repeated_header"},
		"twice, first another":       {"/read", headers("Basic eDp5", "Bearer "+token), 400, "repeated_header"},
		"twice, second empty":        {"/read", headers("Bearer "+token, ""), 400, "repeated_header"},
		"as access_token":            {"/read?access_token=" + token, nil, 401, "missing_token"},
		"as token":                   {"/read?token=" + token, nil, 401, "missing_token"},
		"as authorization":           {"/read?Authorization=Bearer%20" + token, nil, 401, "missing_token"},
		"as a cookie":                {"/read", http.Header{"Cookie": {"Authorization=Bearer " + token + "; access_token=" + token}}, 401, "missing_token"},
		"as the proxy's":             {"/read", http.Header{"Proxy-Authorization": {"Bearer " + token}}, 401, "missing_token"},
		"as another header":          {"/read", http.Header{"X-Access-Token": {token}, "X-Authorization": {"Bearer " + token}}, 401, "missing_token"},
		"as a subprotocol":           {"/read", http.Header{"Sec-Websocket-Protocol": {"Bearer, " + token}}, 401, "missing_token"},
		"in the header and as token": {"/read?access_token=x", headers("Bearer " + token), 200, ""}, // the routes refuse it
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := doHeaders(t, app, http.MethodGet, tt.path, tt.header)
			require.Equal(t, tt.want, got.status, string(got.body))
			if tt.want != 200 {
				require.Equal(t, tt.code, got.code(t))
				require.True(t, strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer"))
			}
			// The same again: a token that is known by now is not good in more places.
			require.Equal(t, tt.want, doHeaders(t, app, http.MethodGet, tt.path, tt.header).status)
		})
	}
}

// A header of a megabyte is not read, and one that just fits is no reason to work hard.
func TestLargeTokens(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	padded := func(size int) string {
		return hs256(t, jwt.MapClaims{"x": strings.Repeat("x", size)})
	}
	for size, want := range map[int]string{1 << 10: " 200 ", 8 << 10: " 200 ", 32 << 10: " 431 ", 1 << 20: " 431 "} {
		require.Contains(t, exchange(t, app, "GET /read HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+padded(size)+"\r\nConnection: close\r\n\r\n"), want, size)
	}
	deep := `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	payload, err := json.Marshal(claims(nil))
	require.NoError(t, err)
	require.Equal(t, 200, get(t, app, handmade(t, jwt.SigningMethodHS256, []byte(secret), `{"alg":"HS256"}`, deep+","+string(payload[1:]))))
	require.Equal(t, 401, get(t, app, strings.Repeat(".", 15000)))
	require.Equal(t, 401, get(t, app, strings.Repeat("A", 15000)))
}

// exchange sends bytes on a connection and returns the status line of the answer.
func exchange(t *testing.T, app *fiber.App, request string) string {
	t.Helper()
	listener := fasthttputil.NewInmemoryListener()
	served := make(chan error, 1)
	app.Handler() // puts the routes in order
	go func() { served <- app.Server().Serve(listener) }()
	conn, err := listener.Dial()
	require.NoError(t, err)
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = conn.Write([]byte(request)) // the server need not read it all
	}()
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	<-written
	require.NoError(t, listener.Close())
	require.NoError(t, <-served)
	return line
}
