import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;
import javax.net.ssl.SSLEngine;
import java.net.Socket;

/**
 * GET requests over HTTP/2 by Java's HttpClient until standard input ends; prints what became of them.
 *
 * <p>Arguments: URL, number of threads, "own" (a client and so a connection for each thread) or "shared".
 */
public class Requests {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        int count = Integer.parseInt(arguments[1]);
        boolean shared = arguments[2].equals("shared");
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Anybody()}, new SecureRandom());
        HttpClient common = client(context);
        AtomicInteger answered = new AtomicInteger();
        AtomicInteger failed = new AtomicInteger();
        AtomicReference<String> first = new AtomicReference<>("");
        boolean[] stop = {false};
        Thread[] threads = new Thread[count];
        for (int i = 0; i < count; i++) {
            HttpClient client = shared ? common : client(context);
            threads[i] = new Thread(() -> {
                while (!stop[0]) {
                    try {
                        HttpResponse<String> response = client.send(
                            HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString());
                        if (response.statusCode() != 200 || response.version() != HttpClient.Version.HTTP_2) {
                            throw new IOException(response.toString());
                        }
                        if (answered.incrementAndGet() == 1) {
                            System.out.println("ready");
                        }
                        Thread.sleep(2);
                    } catch (Exception error) {
                        failed.incrementAndGet();
                        first.compareAndSet("", String.valueOf(error));
                    }
                }
            });
            threads[i].start();
        }
        while (System.in.read() >= 0) {
            continue;
        }
        stop[0] = true;
        for (Thread thread : threads) {
            thread.join();
        }
        String why = first.get().replaceAll("[^ -~]|[\"\\\\]", " ");
        System.out.printf("{\"answered\": %d, \"failed\": %d, \"first\": \"%s\"}%n", answered.get(), failed.get(), why);
        System.exit(0);
    }

    static HttpClient client(SSLContext context) {
        return HttpClient.newBuilder().version(HttpClient.Version.HTTP_2).sslContext(context).build();
    }

    /** Trusts every certificate. */
    static class Anybody extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String type) {}
        public void checkServerTrusted(X509Certificate[] chain, String type) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }
}
