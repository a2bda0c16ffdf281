package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
)

// scripted is a server at the other end of a pipe, which passes a byte on when it is read, and holds none.
type scripted struct {
	*pgproto3.Backend
	socket    net.Conn
	cancelled int // requests to cancel
}

// dial connects to a server that does as script says once it has greeted, and closes the connection after that.
func dial(t *testing.T, secured bool, script func(*scripted)) (*pgconn.PgConn, *scripted) {
	t.Helper()
	config, err := pgconn.ParseConfig("host=server user=mtm sslmode=" + map[bool]string{true: "require", false: "disable"}[secured])
	require.NoError(t, err)
	server, identity := &scripted{}, certificate(t)
	var ends sync.WaitGroup
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"server"}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		client, end := net.Pipe()
		ends.Go(func() {
			defer func() { _ = end.Close() }() // over TLS as well without a goodbye
			for socket := end; ; {
				backend := pgproto3.NewBackend(socket, socket)
				message, err := backend.ReceiveStartupMessage()
				if err != nil {
					return
				}
				switch message.(type) {
				case *pgproto3.SSLRequest:
					if _, err := socket.Write([]byte("S")); err != nil {
						return
					}
					socket = tls.Server(end, &tls.Config{Certificates: []tls.Certificate{identity}, SessionTicketsDisabled: true, MinVersion: tls.VersionTLS13})
				case *pgproto3.CancelRequest:
					server.cancelled++
					return
				case *pgproto3.StartupMessage:
					server.Backend, server.socket = backend, socket
					server.say(&pgproto3.AuthenticationOk{}, &pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte("open")}, ready)
					script(server)
					return
				}
			}
		})
		return client, nil
	}
	connection, err := pgconn.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = connection.Close(t.Context()) // it may be closed
		<-connection.CleanupDone()
		ends.Wait()
	})
	return connection, server
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	body, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{body}, PrivateKey: key}
}

var ready = &pgproto3.ReadyForQuery{TxStatus: 'I'} //nolint:gochecknoglobals // a constant

func refusalOf(severity, code string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: severity, SeverityUnlocalized: severity, Code: code}
}

// say reports whether somebody listened.
func (s *scripted) say(messages ...pgproto3.BackendMessage) bool {
	for _, message := range messages {
		s.Send(message)
	}
	return s.Flush() == nil
}

// receive reports whether there is a query; what is left of a COPY that was refused is passed over, as PostgreSQL does.
func (s *scripted) receive() (query string, is bool) {
	for {
		message, err := s.Receive()
		if err != nil {
			return "", false
		}
		if query, ok := message.(*pgproto3.Query); ok {
			return query.String, true
		}
	}
}

// copyIn takes what one COPY sends, and says something after each message of it.
func (s *scripted) copyIn(comment ...pgproto3.BackendMessage) bool {
	if !s.say(&pgproto3.CopyInResponse{OverallFormat: 1, ColumnFormatCodes: []uint16{1, 1, 1, 1, 1}}) {
		return false
	}
	for {
		message, err := s.Receive()
		if err != nil {
			return false
		}
		if _, ended := message.(*pgproto3.CopyDone); ended {
			return s.say(&pgproto3.CommandComplete{CommandTag: []byte("COPY 1")})
		}
		if !s.say(comment...) {
			return false
		}
	}
}

// serve does all queries.
func (s *scripted) serve() {
	for {
		query, is := s.receive()
		for range strings.Count(query, "SET ") {
			is = is && s.say(&pgproto3.CommandComplete{CommandTag: []byte("SET")})
		}
		for range strings.Count(query, "COPY ") {
			is = is && s.copyIn()
		}
		if !is || !s.say(ready) {
			return
		}
	}
}

// requestsOf copies so many times, a payload of so many bytes each.
func requestsOf(copies, size int) []byte {
	group := make([]*write, copies)
	for i := range group {
		group[i] = &write{tenant: uuid.New(), messages: []Row{{ID: uuid.New(), Payload: make([]byte, size)}}}
	}
	return appendWrites(nil, sharedTimeouts, group, 1)
}

// Whatever a server answers, and whenever it does while we are still sending: it is understood, and the connection is
// either good for the next write or closed. A mistake here mixes up the answers of two writes.
func TestExchangeAgainstAServer(t *testing.T) {
	const small, large = 100, 20 * socketBuffer
	for name, test := range map[string]struct {
		size   int // of a payload
		script func(*scripted)
		code   string // of the refusal
		broken bool
		copied int
		closed bool
	}{
		"stored":        {size: small, script: (*scripted).serve, copied: 3},
		"stored, large": {size: large, script: (*scripted).serve, copied: 3},
		"refused before it is read": {size: large, code: "42P01", script: func(s *scripted) {
			s.receive()
			s.say(refusalOf("ERROR", "42P01"), ready)
			s.serve()
		}},
		"refused in the middle": {size: small, copied: 1, code: "22P05", script: func(s *scripted) {
			s.receive()
			s.copyIn()
			s.say(&pgproto3.CopyInResponse{}, refusalOf("ERROR", "22P05"), ready)
			s.serve()
		}},
		"refused at the end": {size: small, copied: 3, code: "P0001", script: func(s *scripted) {
			s.receive()
			s.copyIn()
			s.copyIn()
			s.copyIn()
			s.say(refusalOf("ERROR", "P0001"), ready)
			s.serve()
		}},
		"much to say meanwhile": {size: large, copied: 3, script: func(s *scripted) {
			notice := &pgproto3.NoticeResponse{Severity: "NOTICE", Message: strings.Repeat("x", large)}
			s.receive()
			s.copyIn(notice)
			s.copyIn(notice)
			s.copyIn(notice)
			s.say(ready)
			s.serve()
		}},
		"terminated": {size: large, copied: 1, code: "57P01", closed: true, script: func(s *scripted) {
			s.receive()
			s.copyIn()
			s.say(refusalOf("FATAL", "57P01"))
		}},
		"refused, then gone": {size: large, code: "22P05", closed: true, script: func(s *scripted) {
			s.receive()
			s.say(refusalOf("ERROR", "22P05"))
		}},
		"nonsense, and no ear": {size: large, broken: true, closed: true, script: func(s *scripted) {
			s.receive()
			if _, err := s.socket.Write([]byte{0xff, 0, 0, 0, 4}); err == nil {
				<-time.After(time.Hour)
			}
		}},
		"gone at once":       {size: large, broken: true, closed: true, script: func(*scripted) {}},
		"gone in the middle": {size: large, broken: true, copied: 1, closed: true, script: func(s *scripted) { s.receive(); s.copyIn() }},
		"gone before the answer": {size: small, broken: true, copied: 3, closed: true, script: func(s *scripted) {
			s.receive()
			s.copyIn()
			s.copyIn()
			s.copyIn()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connection, _ := dial(t, false, test.script)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				copied, err := exchange(ctx, connection, requestsOf(3, test.size))
				require.Zero(t, time.Since(began), "by the clock of the bubble")
				require.Equal(t, test.broken || test.code != "", err != nil, "%v", err)
				require.Equal(t, test.code, sqlstate.Of(err), "%v", err)
				require.Equal(t, test.copied, copied)
				require.Equal(t, test.closed, connection.IsClosed())
				if !test.closed {
					copied, err = exchange(ctx, connection, requestsOf(2, small))
					require.NoError(t, err)
					require.Equal(t, 2, copied)
					require.EqualValues(t, 'I', connection.TxStatus())
				}
			})
		})
	}
}

// A server that is frozen must hold a writer for as long as its timeout, and not a moment longer: at every stage, with and
// without TLS. It is asked to cancel, or the transaction would keep holding locks and the reading order.
func TestExchangeWithAFrozenServer(t *testing.T) {
	const timeout = 10 * time.Second
	for stage, script := range map[string]func(*scripted){
		"reads nothing":   func(*scripted) {},
		"reads the query": func(s *scripted) { s.receive() },
		"reads the half":  func(s *scripted) { s.receive(); s.copyIn() },
		"says half a word": func(s *scripted) {
			s.receive()
			s.copyIn()
			word, err := (&pgproto3.NoticeResponse{Message: "half a word"}).Encode(nil)
			if err == nil {
				_, err = s.socket.Write(word[:len(word)/2])
			}
			if err != nil {
				t.Errorf("say half a word: %v", err)
			}
		},
		"reads all": func(s *scripted) { s.receive(); s.copyIn(); s.copyIn() },
	} {
		for _, secured := range []bool{false, true} {
			for _, size := range []int{100, 20 * socketBuffer} {
				t.Run(fmt.Sprintf("%s/tls=%t/%d bytes", stage, secured, size), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						thawed := make(chan struct{})
						connection, server := dial(t, secured, func(s *scripted) { script(s); <-thawed })
						t.Cleanup(func() { close(thawed) })
						ctx, cancel := context.WithTimeout(t.Context(), timeout)
						defer cancel()
						began := time.Now()
						_, err := exchange(ctx, connection, requestsOf(2, size))
						require.ErrorIs(t, err, context.DeadlineExceeded)
						require.Equal(t, timeout, time.Since(began), "by the clock of the bubble")
						require.True(t, connection.IsClosed())
						<-connection.CleanupDone()
						require.Equal(t, 1, server.cancelled)
					})
				})
			}
		}
	}
}

// A connection that was given up must not get back into the pool, even if the server has said more than it was asked.
func TestCancelRequestReadsWhatHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connection, _ := dial(t, false, func(s *scripted) {
			s.receive()
			s.copyIn()
			s.say(ready, &pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}, &pgproto3.ParameterStatus{Name: "TimeZone", Value: "GMT"})
		})
		_, err := exchange(t.Context(), connection, requestsOf(1, 100))
		require.NoError(t, err)
		require.False(t, connection.IsClosed())
		cancelRequest(t.Context(), connection)
		require.True(t, connection.IsClosed())
	})
}

// trial is an exchange of three COPYs with a server that takes its time.
type trial struct {
	Secured bool
	Size    int
	Timeout time.Duration
	Pauses  []time.Duration // before each COPY, and before the end
	Fails   int             // at which COPY; beyond the last it is none
	Dies    bool            // instead of refusing
}

// Wherever time runs out: what is said to be stored has been committed, what is said to be refused has not, the timeout
// holds, and a connection that stays open has nothing of an earlier answer in it.
func TestExchangeProperty(t *testing.T) {
	seconds := func(least, most int) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.IntRange(least, most), func(n int) time.Duration { return time.Duration(n) * time.Second })
	}
	rapid.Check(t, func(r *rapid.T) {
		drawn := trial{
			Secured: rapid.Bool().Draw(r, "secured"), Size: rapid.SampledFrom([]int{10, 2 * socketBuffer}).Draw(r, "size"),
			Timeout: seconds(1, 16).Draw(r, "timeout"), Pauses: rapid.SliceOfN(seconds(0, 6), 4, 4).Draw(r, "pauses"),
			Fails: rapid.IntRange(0, 5).Draw(r, "fails"), Dies: rapid.Bool().Draw(r, "dies"),
		}
		var err error
		synctest.Test(t, func(t *testing.T) { err = drawn.run(t) })
		require.NoError(r, err)
	})
}

func (trial trial) run(t *testing.T) error {
	t.Helper()
	copies := len(trial.Pauses) - 1
	committed := false
	connection, _ := dial(t, trial.Secured, func(s *scripted) {
		s.receive()
		for i, pause := range trial.Pauses {
			<-time.After(pause) // of the clock of the bubble
			switch {
			case i == trial.Fails && trial.Dies:
				return
			case i == trial.Fails:
				if s.say(refusalOf("ERROR", "22P05"), ready) {
					s.serve()
				}
				return
			case i < copies && !s.copyIn():
				return
			}
		}
		committed = true
		if s.say(ready) {
			s.serve()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), trial.Timeout)
	defer cancel()
	began := time.Now()
	copied, err := exchange(ctx, connection, requestsOf(copies, trial.Size))
	took := time.Since(began)
	switch code := sqlstate.Of(err); {
	case took > trial.Timeout:
		return fmt.Errorf("it took %s", took)
	case err == nil && (!committed || copied != copies):
		return fmt.Errorf("stored, they say: %d copied, committed %t", copied, committed)
	case code != "" && (committed || copied != trial.Fails || trial.Dies):
		return fmt.Errorf("refused, they say: %w: %d copied, committed %t", err, copied, committed)
	}
	if connection.IsClosed() {
		if err == nil && ctx.Err() == nil {
			return errors.New("a good connection was closed")
		}
		return nil
	}
	if copied, err = exchange(t.Context(), connection, requestsOf(2, trial.Size)); err != nil || copied != 2 {
		return fmt.Errorf("the connection was not good: %w, %d copied", err, copied)
	}
	return nil
}
