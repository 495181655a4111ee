import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;

/** Posts the same body in each way that the client has; prints a line of status, HTTP version and body for each. */
public class Embed {
    public static void main(String[] arguments) throws Exception {
        URI address = URI.create(arguments[0] + "/v1/embeddings");
        byte[] body = arguments[1].getBytes("UTF-8");
        for (HttpClient.Version version : HttpClient.Version.values()) {
            HttpClient client = HttpClient.newBuilder().version(version).build();
            for (boolean waits : new boolean[] {false, true}) {
                for (boolean chunked : new boolean[] {false, true}) {
                    HttpRequest request = HttpRequest.newBuilder(address)
                        .header("Content-Type", "application/json")
                        .expectContinue(waits)
                        .POST(publisher(body, chunked))
                        .build();
                    print(client.send(request, BodyHandlers.ofString()));
                    print(client.sendAsync(request, BodyHandlers.ofString()).get()); // on the same connection
                }
            }
        }
    }

    private static BodyPublisher publisher(byte[] body, boolean chunked) {
        BodyPublisher known = BodyPublishers.ofByteArray(body);
        return chunked ? BodyPublishers.fromPublisher(known) : known;
    }

    private static void print(HttpResponse<String> reply) {
        System.out.println(reply.statusCode() + " " + reply.version() + " " + reply.body());
    }
}
