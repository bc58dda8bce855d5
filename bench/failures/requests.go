// POST requests over HTTP/2 by Go's net/http until standard input ends; prints what became of them.
//
// Arguments: URL, number of goroutines; all share a client. Every second body can't be sent a second time.
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type once struct{ io.Reader }

func main() {
	count, _ := strconv.Atoi(os.Args[2])
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	var answered, failed, stop int64
	var first atomic.Value
	first.Store("")
	var wait sync.WaitGroup
	one := func(number int64) error {
		text := strings.Repeat("x", 2000)
		var body io.Reader = strings.NewReader(text)
		if number%2 == 1 {
			body = once{body}
		}
		request, err := http.NewRequest("POST", os.Args[1], body)
		if err != nil {
			return err
		}
		request.ContentLength = int64(len(text))
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return err
		}
		if response.StatusCode != 200 || response.ProtoMajor != 2 {
			return fmt.Errorf("%s %s", response.Proto, response.Status)
		}
		return nil
	}
	for i := 0; i < count; i++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for number := int64(0); atomic.LoadInt64(&stop) == 0; number++ {
				if err := one(number); err != nil {
					if atomic.AddInt64(&failed, 1) == 1 {
						first.Store(err.Error())
					}
				} else if atomic.AddInt64(&answered, 1) == 1 {
					fmt.Println("ready")
				}
				time.Sleep(2 * time.Millisecond)
			}
		}()
	}
	io.Copy(io.Discard, os.Stdin)
	atomic.StoreInt64(&stop, 1)
	wait.Wait()
	json.NewEncoder(os.Stdout).Encode(map[string]any{"answered": answered, "failed": failed, "first": first.Load()})
}
