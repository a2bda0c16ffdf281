package servers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/workspace"
)

// record is what has to be remembered of a server to find it, to start it again on the same data and to log in. It lies
// in <dir>/data/<name>.<source>.json and holds a password.
type record struct {
	Source   backing.Source `json:"source"`
	Password string         `json:"password"`
	// The ports.
	Port           int `json:"port"`
	ManagementPort int `json:"management_port,omitempty"`
	// The two further ports of an Erlang node.
	DistributionPort int `json:"distribution_port,omitempty"`
	EPMDPort         int `json:"epmd_port,omitempty"`
	// Data is the folder of a native server.
	Data string `json:"data,omitempty"`
	// Container and Volume are names in Docker; scratch servers have no named volume.
	Container string `json:"container,omitempty"`
	Volume    string `json:"volume,omitempty"`
}

// taken is one of the server's ports that somebody listens on, or 0.
func (r record) taken(ctx context.Context) int {
	ports := []int{r.Port, r.ManagementPort}
	if r.Container == "" {
		ports = append(ports, r.DistributionPort) // that of EPMD may be in use by it
	}
	for _, p := range ports {
		if p != 0 && port.InUse(ctx, p) {
			return p
		}
	}
	return 0
}

func hostPort(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

func dataDir(dir string) string { return filepath.Join(dir, "data") }

func recordFile(dir string, name backing.Name, source backing.Source) string {
	return filepath.Join(dataDir(dir), string(name)+"."+string(source)+".json")
}

// currentFile says which of a service's records is in use.
func currentFile(dir string, name backing.Name) string {
	return filepath.Join(dataDir(dir), string(name)+".current")
}

func loadRecord(dir string, name backing.Name, source backing.Source) (rec record, found bool, err error) {
	body, err := os.ReadFile(recordFile(dir, name, source))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("read the record of %s: %w", name, err)
	}
	if err := json.Unmarshal(body, &rec); err != nil {
		return record{}, false, fmt.Errorf("read %s: %w", recordFile(dir, name, source), err)
	}
	return rec, true, nil
}

func currentRecord(dir string, name backing.Name) (rec record, found bool, err error) {
	body, err := os.ReadFile(currentFile(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("read the source of %s: %w", name, err)
	}
	return loadRecord(dir, name, backing.Source(strings.TrimSpace(string(body))))
}

func saveRecord(dir string, name backing.Name, rec record) error {
	body, err := json.MarshalIndent(rec, "", "  ") //nolint:gosec // its password is what it is for; readable by its owner only
	if err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	// Others have to get through to the data of a server that runs as another user, so no more than passing is allowed.
	if err := os.MkdirAll(dataDir(dir), 0o711); err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	for path, content := range map[string][]byte{
		recordFile(dir, name, rec.Source): append(body, '\n'),
		currentFile(dir, name):            []byte(string(rec.Source) + "\n"),
	} {
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			return fmt.Errorf("record %s: %w", name, err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("record %s: %w", name, err)
		}
	}
	return nil
}

// newPassword is 96 random bits, in characters that need no quoting in a URL, a shell or a configuration file.
func newPassword() string {
	var secret [12]byte
	_, _ = rand.Read(secret[:]) // never fails, see crypto/rand
	return hex.EncodeToString(secret[:])
}

// dirID names what belongs to dir outside of it: containers, volumes.
func dirID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:])[:10]
}

// lockDir keeps two starters from working on one folder at a time.
func lockDir(ctx context.Context, dir string, say func(string, ...any)) (unlock func(), err error) {
	// Passed through by the accounts that servers run as, as [saveRecord] says.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o750); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	return workspace.Lock(ctx, filepath.Join(dir, "run", "backing.lock"), func() {
		say("waiting for another command that works in %s", dir)
	})
}
