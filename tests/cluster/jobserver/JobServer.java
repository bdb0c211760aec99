import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.beam.model.jobmanagement.v1.JobApi.CancelJobRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.CancelJobResponse;
import org.apache.beam.model.jobmanagement.v1.JobApi.DescribePipelineOptionsRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.DescribePipelineOptionsResponse;
import org.apache.beam.model.jobmanagement.v1.JobApi.GetJobMetricsRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.GetJobMetricsResponse;
import org.apache.beam.model.jobmanagement.v1.JobApi.GetJobStateRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.JobMessage;
import org.apache.beam.model.jobmanagement.v1.JobApi.JobMessagesRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.JobMessagesResponse;
import org.apache.beam.model.jobmanagement.v1.JobApi.JobState;
import org.apache.beam.model.jobmanagement.v1.JobApi.JobStateEvent;
import org.apache.beam.model.jobmanagement.v1.JobApi.MetricResults;
import org.apache.beam.model.jobmanagement.v1.JobApi.PrepareJobRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.PrepareJobResponse;
import org.apache.beam.model.jobmanagement.v1.JobApi.RunJobRequest;
import org.apache.beam.model.jobmanagement.v1.JobApi.RunJobResponse;
import org.apache.beam.model.jobmanagement.v1.JobServiceGrpc;
import org.apache.beam.model.pipeline.v1.Endpoints.ApiServiceDescriptor;
import org.apache.beam.model.pipeline.v1.RunnerApi.Environment;
import org.apache.beam.model.pipeline.v1.RunnerApi.IsBounded;
import org.apache.beam.model.pipeline.v1.RunnerApi.Pipeline;
import org.apache.beam.runners.fnexecution.artifact.ArtifactStagingService;
import org.apache.beam.runners.fnexecution.provisioning.JobInfo;
import org.apache.beam.sdk.fn.server.FnService;
import org.apache.beam.sdk.fn.server.GrpcFnServer;
import org.apache.beam.sdk.fn.server.ServerFactory;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.Status;
import org.apache.beam.vendor.grpc.v1p69p0.io.grpc.stub.StreamObserver;
import org.apache.beam.vendor.guava.v32_1_2_jre.com.google.common.base.Throwables;

/**
 * Beam's job service for the engines of these tests: pipelines of Impulse, ParDo with iterable side inputs, Reshuffle, Flatten
 * and GroupByKey; and on Flink also those without end, whose ParDo may be splittable and have no side inputs.
 *
 * <p>A stand-in for the job servers that Beam publishes, for where those cannot be had. What talks to the workers is Beam's own
 * library; the rest behaves as its servers do where a client can tell: states, messages, and what a failure is told by.
 *
 * <p>Arguments: engine ("FlinkEngine" or "SparkEngine"), its master, own address, port, folder for artifacts, parallelism.
 */
public final class JobServer extends JobServiceGrpc.JobServiceImplBase implements FnService {
  private final String engine;
  private final String master;
  private final int parallelism;
  private final GrpcFnServer<ArtifactStagingService> staging;
  private final Map<String, PrepareJobRequest> prepared = new ConcurrentHashMap<>();
  private final Map<String, Job> jobs = new ConcurrentHashMap<>();
  private final ExecutorService runs = Executors.newCachedThreadPool();

  private JobServer(String engine, String master, int parallelism, GrpcFnServer<ArtifactStagingService> staging) {
    this.engine = engine;
    this.master = master;
    this.parallelism = parallelism;
    this.staging = staging;
  }

  public static void main(String[] args) throws Exception {
    FileSystems.setDefaultPipelineOptions(PipelineOptionsFactory.create());
    String address = args[2];
    int port = Integer.parseInt(args[3]);
    ArtifactStagingService artifacts =
        new ArtifactStagingService(ArtifactStagingService.beamFilesystemArtifactDestinationProvider(args[4]));
    JobServer service = new JobServer(args[0], args[1], Integer.parseInt(args[5]), serve(artifacts, address, port + 1));
    serve(service, address, port).getServer().awaitTermination();
  }

  private static <T extends FnService> GrpcFnServer<T> serve(T service, String address, int port) throws Exception {
    ApiServiceDescriptor place = ApiServiceDescriptor.newBuilder().setUrl(address + ":" + port).build();
    return GrpcFnServer.create(service, place, ServerFactory.createDefault());
  }

  /** One run of a pipeline: what has been told of it, and who listens. */
  private static final class Job {
    final List<JobMessagesResponse> events = new ArrayList<>();
    final List<StreamObserver<JobMessagesResponse>> listeners = new ArrayList<>();
    JobState.Enum state;
    Future<?> run;

    synchronized void listen(StreamObserver<JobMessagesResponse> listener) {
      events.forEach(listener::onNext);
      listeners.add(listener);
      endIfOver();
    }

    synchronized void enter(JobState.Enum next) {
      if (!isOver()) {
        state = next;
        tell(JobMessagesResponse.newBuilder().setStateResponse(JobStateEvent.newBuilder().setState(next)).build());
        endIfOver();
      }
    }

    synchronized void say(JobMessage.MessageImportance importance, String text) {
      JobMessage message = JobMessage.newBuilder().setMessageText(text).setImportance(importance).build();
      tell(JobMessagesResponse.newBuilder().setMessageResponse(message).build());
    }

    private void tell(JobMessagesResponse event) {
      events.add(event);
      listeners.removeIf(listener -> hasLeft(listener, event));
    }

    private static boolean hasLeft(StreamObserver<JobMessagesResponse> listener, JobMessagesResponse event) {
      try {
        listener.onNext(event);
        return false;
      } catch (RuntimeException gone) {
        return true;
      }
    }

    private boolean isOver() {
      return state == JobState.Enum.DONE || state == JobState.Enum.FAILED || state == JobState.Enum.CANCELLED;
    }

    private void endIfOver() {
      if (isOver()) {
        listeners.forEach(StreamObserver::onCompleted);
        listeners.clear();
      }
    }
  }

  @Override
  public void prepare(PrepareJobRequest request, StreamObserver<PrepareJobResponse> answer) {
    String id = request.getJobName() + "_" + UUID.randomUUID();
    prepared.put(id, request);
    Map<String, Environment> environments = request.getPipeline().getComponents().getEnvironmentsMap();
    Map<String, List<org.apache.beam.model.pipeline.v1.RunnerApi.ArtifactInformation>> needed = new HashMap<>();
    environments.forEach((name, environment) -> needed.put(name, environment.getDependenciesList()));
    staging.getService().registerJob(id, needed);
    reply(
        answer,
        PrepareJobResponse.newBuilder()
            .setPreparationId(id)
            .setStagingSessionToken(id)
            .setArtifactStagingEndpoint(staging.getApiServiceDescriptor())
            .build());
  }

  @Override
  public void run(RunJobRequest request, StreamObserver<RunJobResponse> answer) {
    PrepareJobRequest plan = prepared.remove(request.getPreparationId());
    if (plan == null) {
      answer.onError(Status.NOT_FOUND.withDescription("no job is prepared by that name").asException());
      return;
    }
    String id = request.getPreparationId();
    Job job = new Job();
    jobs.put(id, job);
    job.enter(JobState.Enum.STARTING);
    JobInfo info = JobInfo.create(id, plan.getJobName(), request.getRetrievalToken(), plan.getPipelineOptions());
    job.enter(JobState.Enum.RUNNING);
    job.run = runs.submit(() -> execute(plan.getPipeline(), info, job));
    reply(answer, RunJobResponse.newBuilder().setJobId(id).build());
  }

  private void execute(Pipeline pipeline, JobInfo info, Job job) {
    try {
      Translation.run(Engine.open(isUnbounded(pipeline) ? streaming() : engine, master, parallelism), pipeline, info);
      job.enter(JobState.Enum.DONE);
    } catch (Throwable error) {
      error.printStackTrace();
      job.say(JobMessage.MessageImportance.JOB_MESSAGE_DEBUG, Throwables.getStackTraceAsString(error));
      job.say(JobMessage.MessageImportance.JOB_MESSAGE_ERROR, Throwables.getRootCause(error).toString());
      job.enter(JobState.Enum.FAILED);
    }
  }

  private static boolean isUnbounded(Pipeline pipeline) {
    return pipeline.getComponents().getPcollectionsMap().values().stream()
        .anyMatch(collection -> collection.getIsBounded() == IsBounded.Enum.UNBOUNDED);
  }

  private String streaming() {
    if (!engine.equals("FlinkEngine")) {
      throw new IllegalArgumentException("cannot be run here: a pipeline without end");
    }
    return "FlinkStreamEngine";
  }

  @Override
  public void cancel(CancelJobRequest request, StreamObserver<CancelJobResponse> answer) {
    Job job = jobs.get(request.getJobId());
    job.enter(JobState.Enum.CANCELLED);
    job.run.cancel(true);
    reply(answer, CancelJobResponse.newBuilder().setState(job.state).build());
  }

  @Override
  public void getState(GetJobStateRequest request, StreamObserver<JobStateEvent> answer) {
    reply(answer, JobStateEvent.newBuilder().setState(jobs.get(request.getJobId()).state).build());
  }

  @Override
  public void getStateStream(GetJobStateRequest request, StreamObserver<JobStateEvent> answer) {
    jobs.get(request.getJobId()).listen(new StreamObserver<>() {
      @Override
      public void onNext(JobMessagesResponse event) {
        if (event.hasStateResponse()) {
          answer.onNext(event.getStateResponse());
        }
      }

      @Override
      public void onError(Throwable error) {
        answer.onError(error);
      }

      @Override
      public void onCompleted() {
        answer.onCompleted();
      }
    });
  }

  @Override
  public void getMessageStream(JobMessagesRequest request, StreamObserver<JobMessagesResponse> answer) {
    jobs.get(request.getJobId()).listen(answer);
  }

  @Override
  public void getJobMetrics(GetJobMetricsRequest request, StreamObserver<GetJobMetricsResponse> answer) {
    reply(answer, GetJobMetricsResponse.newBuilder().setMetrics(MetricResults.getDefaultInstance()).build());
  }

  @Override
  public void describePipelineOptions(
      DescribePipelineOptionsRequest request, StreamObserver<DescribePipelineOptionsResponse> answer) {
    reply(answer, DescribePipelineOptionsResponse.getDefaultInstance());
  }

  private static <T> void reply(StreamObserver<T> answer, T value) {
    answer.onNext(value);
    answer.onCompleted();
  }

  @Override
  public void close() {
    runs.shutdownNow();
  }
}
